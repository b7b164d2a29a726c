//! What is kept of pods once they are through?

use fakes::apiserver::ApiServer;
use futures::future::join_all;

use super::*;

#[tokio::test]
async fn is_nothing_kept_of_pods_whose_namespaces_are_prepared() {
    let client = ApiServer::new().client("geth-peering");
    let preparer = Arc::new(Preparer::new(client, "geth-peering-sidecar", Scope::default(), Arc::default()));
    let pod = async |number: usize| preparer.ensure(&format!("chain-{}", number % 50), "mine", None, false).await;
    for result in join_all((0..1000).map(pod)).await {
        result.unwrap();
    }
    assert!(preparer.index().unprepared().is_empty(), "no pod is owed anything");
    // Whoever needs a turn next clears away those that nobody waits for.
    let _turn = preparer.turn("another");
    assert_eq!(preparer.turns.lock().unwrap().keys().collect::<Vec<_>>(), ["another"]);
}
