//! F15: a critical task that panics ends the server, and nothing that hangs keeps it.

use super::*;
use crate::supervise::Patience;

#[tokio::test]
async fn f15_the_end_of_the_stores_thread_is_the_servers() {
    let World { server, dir } = World::new("").await;
    let failed = server.failed();
    server.store.with_connection(|_| panic!("on purpose")).await;
    tokio::time::timeout(PATIENCE, failed.cancelled())
        .await
        .expect("the server notices");
    server.fail().await;
    drop(dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_after_a_critical_tasks_panic_the_server_ends_within_a_second_whatever_hangs() {
    let within = Patience::FAILED.links + Patience::FAILED.tasks + Patience::FAILED.store;
    assert!(within < Duration::from_secs(1), "{within:?}");
    let World { server, dir } = World::new("").await;
    let failed = server.failed();
    server.tasks.spawn("stubborn", std::future::pending::<()>());
    // The database is busy, and for longer than anybody should wait.
    let (release, busy) = std::sync::mpsc::channel::<()>();
    let store = server.store.clone();
    server.tasks.spawn("disk", async move {
        store
            .with_connection(move |_| {
                let _ = busy.recv();
            })
            .await;
    });
    server
        .tasks
        .spawn_critical("doomed", async { panic!("on purpose") });
    tokio::time::timeout(PATIENCE, failed.cancelled())
        .await
        .expect("the server notices");
    let began = Clock.now().monotonic;
    server.fail().await;
    let took = began.elapsed();
    drop((release, dir));
    // Five times, for a machine that has other things to do.
    assert!(took < 5 * within, "{took:?}");
}
