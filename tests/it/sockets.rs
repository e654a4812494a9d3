//! What systemd hands over: listening sockets, those that it keeps over a restart, and secrets.

use std::io::IoSliceMut;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::process::Stdio;

use http::StatusCode;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::time::timeout;

use crate::world::{Daemon, PATIENCE, World};

/// Starts the program as systemd does: its sockets from 3 on, each with a name.
fn handed(server: &Daemon, moves: &str, names: &str, notify: &Path) -> Command {
    let count = names.split(':').count();
    let script = format!(
        "exec {moves} 0</dev/null 1>/dev/null; export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}; exec \"$@\""
    );
    let mut command = server.command_by(&["bash", "-c", &script, "bash"]);
    command.env("NOTIFY_SOCKET", notify);
    command
}

/// Reads until READY; the sockets that it was given to keep, by name.
async fn kept(notify: &UnixDatagram) -> Vec<(String, RawFd)> {
    let mut all = Vec::new();
    loop {
        let (text, fds) = notify
            .async_io(Interest::READABLE, || {
                let mut text = [0u8; 1024];
                let mut room = nix::cmsg_space!([RawFd; 4]);
                let mut into = [IoSliceMut::new(&mut text)];
                let flags = MsgFlags::MSG_DONTWAIT;
                let got = recvmsg::<()>(notify.as_raw_fd(), &mut into, Some(&mut room), flags)?;
                let mut fds = Vec::new();
                for message in got.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(more) = message {
                        fds.extend(more);
                    }
                }
                let read = got.bytes;
                Ok((String::from_utf8_lossy(&text[..read]).into_owned(), fds))
            })
            .await
            .unwrap();
        if text.contains("READY=1") {
            return all;
        }
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        if text.starts_with("FDSTORE=1") {
            let name = name.expect("it has a name").to_owned();
            all.extend(fds.into_iter().map(|fd| (name.clone(), fd)));
        }
    }
}

#[tokio::test]
async fn a_socket_unit_says_where_the_server_listens() {
    let mut world = World::new().await;
    world.server.stop().await;
    let tcp = TcpListener::bind(world.addr).unwrap();
    let udp = UdpSocket::bind(world.addr).unwrap();
    let ours = world.addr.port().to_string();
    world.rewrite_server(|text| text.replace(&format!(":{ours}"), ":1"));
    let path = world.server.dir().join("notify-handed");
    let notify = UnixDatagram::bind(&path).unwrap();
    let mut command = handed(&world.server, "3<&0 4<&1", "https:https", &path);
    command
        .stdin(Stdio::from(OwnedFd::from(tcp)))
        .stdout(Stdio::from(OwnedFd::from(udp)));
    world.server.adopt(command.spawn().unwrap());
    let stored = timeout(PATIENCE, kept(&notify)).await.expect("it is ready");
    assert_eq!(stored, [], "a unit's sockets are the unit's");
    let status = world.server_ctl(&["status"]).await.ok().json();
    assert_eq!(status["listen"]["https"], world.addr.to_string());
    let answer = world.visitor("nobody").get("/").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    // Links come in on the UDP socket.
    let client = world.client().await;
    let token = world.invite(&[]).await;
    let token = token.as_str();
    let said = crate::world::ctl(client.socket(), &["join", token]).await;
    assert_ne!(said.code, 2, "{said:?}");
    assert!(world.server.stop().await.success());
}

#[tokio::test]
async fn who_comes_while_the_server_restarts_waits_and_is_answered() {
    let mut world = World::new().await;
    world.server.stop().await;
    let path = world.server.dir().join("notify-first");
    let notify = UnixDatagram::bind(&path).unwrap();
    let mut command = world.server.command_by(&[]);
    command.env("NOTIFY_SOCKET", &path);
    world.server.adopt(command.spawn().unwrap());
    let stored = timeout(PATIENCE, kept(&notify)).await.expect("it is ready");
    let [(first, tcp), (second, udp)] = &stored[..] else {
        panic!("two sockets to keep: {stored:?}");
    };
    assert_eq!(
        (first.as_str(), second.as_str()),
        ("stored-https", "stored-https")
    );
    world.server.crash().await;
    // Nobody is there, and nobody is refused.
    let visitor = world.visitor("nobody");
    let visit = tokio::spawn(async move { visitor.get("/").await.status });
    tokio::net::TcpStream::connect(world.addr).await.unwrap();
    let path = world.server.dir().join("notify-second");
    let notify = UnixDatagram::bind(&path).unwrap();
    let moves = format!("3<&{tcp} 4<&{udp}");
    let names = "stored-https:stored-https";
    let mut command = handed(&world.server, &moves, names, &path);
    world.server.adopt(command.spawn().unwrap());
    let again = timeout(PATIENCE, kept(&notify)).await.expect("it is ready");
    assert_eq!(again, [], "they are kept already");
    let status = timeout(PATIENCE, visit).await.expect("it is answered");
    assert_eq!(status.unwrap(), StatusCode::NOT_FOUND);
    assert!(world.server.log().contains("took a socket over"));
    assert!(world.server.stop().await.success());
    for (_, fd) in stored {
        nix::unistd::close(fd).unwrap();
    }
}

/// Starts a daemon with credentials, and waits until it is ready.
async fn start_with_credentials(daemon: &mut Daemon, credentials: &Path) {
    let path = daemon.dir().join("notify-credentials");
    let notify = UnixDatagram::bind(&path).unwrap();
    let mut command = daemon.command_by(&[]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("CREDENTIALS_DIRECTORY", credentials);
    daemon.adopt(command.spawn().unwrap());
    timeout(PATIENCE, kept(&notify)).await.expect("it is ready");
}

#[tokio::test]
async fn the_servers_key_and_a_join_token_may_come_as_credentials() {
    let mut world = World::new().await;
    let pin = world.server_ctl(&["status"]).await.ok().json()["pin"].clone();
    let token = world.invite(&[]).await;
    world.server.stop().await;
    let credentials = world.server.dir().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let key = world.server.dir().join("state/server.key");
    std::fs::rename(&key, credentials.join("server.key")).unwrap();
    start_with_credentials(&mut world.server, &credentials).await;
    assert!(!key.exists(), "it is not written to the disk");
    assert_eq!(world.server_ctl(&["status"]).await.ok().json()["pin"], pin);

    let mut client = world.client().await;
    client.stop().await;
    let credentials = client.dir().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(credentials.join("join-token"), format!("{token}\n")).unwrap();
    start_with_credentials(&mut client, &credentials).await;
    crate::world::eventually("it has joined by itself", || async {
        let status = crate::world::ctl(client.socket(), &["--json", "status"]).await;
        (status.ok().json()["link"]["state"] == "up").then_some(())
    })
    .await;

    // Another key beside the credential: clients trust one of the two, and it is not ours to choose.
    world.server.stop().await;
    std::fs::copy(client.dir().join("state/client.key"), &key).unwrap();
    let credentials = world.server.dir().join("credentials");
    let mut command = world.server.command_by(&[]);
    command.env("CREDENTIALS_DIRECTORY", &credentials);
    let status = timeout(PATIENCE, command.spawn().unwrap().wait()).await;
    assert!(!status.expect("it ends by itself").unwrap().success());
    assert!(
        world.server.log().contains("are two keys"),
        "{}",
        world.server.log()
    );
}
