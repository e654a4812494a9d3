//! What the client remembers of networks: a hint, kept small.

use super::*;
use crate::engine::book::{BookChange, BookSnapshot, NetworkRow};
use crate::store::ClientStore;

#[tokio::test]
async fn few_networks_are_remembered_and_none_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let network = |n: u64, days: u64| NetworkRow {
        key: format!("10.0.{n}.1"),
        websocket: n.is_multiple_of(2),
        used_at: days_ago(days),
    };
    let (store, _) = ClientStore::open_at(dir.path(), false, NOW).unwrap();
    for n in 0..40 {
        let change = BookChange::Network(network(n, 60 - n));
        store.commit(vec![change]).await.unwrap();
    }
    // Used again, it is the latest.
    let again = NetworkRow {
        websocket: true,
        used_at: NOW,
        ..network(9, 0)
    };
    store
        .commit(vec![BookChange::Network(again.clone())])
        .await
        .unwrap();
    store.close().await;

    let (store, found) = ClientStore::open_at(dir.path(), true, NOW).unwrap();
    assert_eq!(found.networks.len(), 32);
    assert_eq!(found.networks.last(), Some(&again));
    assert!(!found.networks.contains(&network(7, 53)));
    store.close().await;
    let later = NOW.plus(Duration::from_secs(80 * 86_400));
    let (store, found) = ClientStore::open_at(dir.path(), true, later).unwrap();
    assert_eq!(found.networks, [again], "the others are too old to be true");
    store.commit(vec![BookChange::Left]).await.unwrap();
    store.close().await;
    let (store, found) = ClientStore::open_at(dir.path(), true, later).unwrap();
    assert_eq!(found, BookSnapshot::default());
    store.close().await;
}
