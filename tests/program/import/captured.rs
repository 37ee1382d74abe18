//! Payloads that were captured from Chatwoot go all the way: import, store, POST. The bodies differ from the
//! payloads as `tests/chatwoot/exceptions.rs` says, and nowhere else.

use std::collections::BTreeMap;

use super::{file, import, subscribe};
use crate::{
    chatwoot::fixtures,
    support::{process::Launcher, receiver::Receiver},
};

#[tokio::test]
async fn captured_payloads_come_out_again_in_chatwoots_form() {
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let mut receivers: BTreeMap<i64, Receiver> = BTreeMap::new();
    let captured = fixtures::all();
    assert_eq!(captured.len(), 23);
    for fixture in captured {
        let account = fixture.account().get();
        if let std::collections::btree_map::Entry::Vacant(entry) = receivers.entry(account) {
            let receiver = Receiver::start().await;
            subscribe(&gateway, account, &receiver).await;
            entry.insert(receiver);
        }
        let flags = ["--account", &account.to_string()];
        if fixture.is_an_unknown_event() {
            let file = file(&launcher, "none.json", &fixture.captured);
            let refused = import(&gateway, &[&flags[..], &[&file]].concat()).await;
            assert_eq!(
                (refused.code, &*refused.stdout),
                (Some(65), "published 0, already there 0, refused 1\n")
            );
        }
        let file = file(&launcher, "body.json", fixture.as_one_of_the_twelve());
        let ended = import(&gateway, &[&flags[..], &[&file]].concat()).await;
        let expected = (Some(0), "published 1, already there 0, refused 0\n", "");
        assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), expected, "{}", fixture.name);

        let arrived = receivers.get_mut(&account).expect("it was just put there").next().await;
        fixture.assert_differs_as_excepted(arrived.body.as_bytes());
    }
    gateway.stop().await;
}
