//! The server's key changes while clients are joined, with the real programs.

use http::StatusCode;

use crate::origin::Origin;
use crate::world::{Daemon, World, ctl, eventually, open};

async fn up(client: &Daemon) {
    eventually("the link is up", || async {
        let status = ctl(client.socket(), &["--json", "status"]).await.json();
        (status["link"]["state"] == "up").then_some(())
    })
    .await;
}

async fn pin(world: &World) -> String {
    let status = world.server_ctl(&["status"]).await.ok().json();
    status["pin"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_client_that_joined_before_the_server_s_key_changed_need_not_join_again() {
    let mut world = World::new().await;
    let mut client = world.joined().await;
    let mut away = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app", "--share"]).await;
    let link = ctl(
        client.socket(),
        &["--json", "share", "app", "--expires", "1h"],
    )
    .await;
    let link = link.ok().json()["url"].as_str().unwrap().to_owned();
    let path = format!("/{}", link.splitn(4, '/').nth(3).unwrap());
    let first = pin(&world).await;
    // This one hears nothing of it.
    away.stop().await;

    let (status, said) = world.server.run_with(&["rotate-key", "--finish"]).await;
    assert!(
        !status.success() && said.contains("lock held by pid"),
        "{said}"
    );
    let (status, said) = world.server.run_with(&["rotate-key"]).await;
    assert!(
        status.success() && said.contains("server.key.next"),
        "{said}"
    );
    let reloaded = world.server_ctl(&["reload"]).await.ok();
    assert!(
        reloaded.out.contains("learn of the next key"),
        "{reloaded:?}"
    );
    let again = world.server_ctl(&["reload"]).await.ok();
    assert!(!again.out.contains("next key"), "no news: {again:?}");
    // Who links now learns it, and so does who joins now.
    client.crash().await;
    client.start().await;
    up(&client).await;
    let newcomer = world.joined().await;

    world.server.stop().await;
    let (status, said) = world.server.run_with(&["rotate-key", "--finish"]).await;
    assert!(status.success(), "{said}");
    world.server.start().await;
    let second = pin(&world).await;
    assert_ne!(first, second);
    assert!(said.contains(&second), "{said}");
    up(&client).await;
    up(&newcomer).await;
    let visitor = world.visitor("app");
    assert_eq!(visitor.get("/").await.status, StatusCode::FORBIDDEN);
    // What was promised by the first key stays good: a link, and what is sealed on disk.
    let opened = visitor.get(&path).await;
    assert!(
        opened.status.is_redirection() || opened.status == StatusCode::OK,
        "{opened:?}"
    );
    // Who heard of nothing believes only the old key.
    away.start().await;
    eventually("it does not go on", || async {
        let status = ctl(away.socket(), &["--json", "status"]).await.json();
        let refused = status["link"]["last_error"].as_str()?.to_owned();
        (status["link"]["state"] != "up").then_some(refused)
    })
    .await;
    client.crash().await;
    client.start().await;
    up(&client).await;
}
