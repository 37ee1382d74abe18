//! The scope that each method requires. docs/security.md has the same table; a test compares them.

use crate::domain::access::Scope::{self, Admin, Manage, Publish, Read};

/// The condition for calling a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequiredScope {
    /// A caller with this scope.
    Scope(Scope),
    /// A caller with this scope, or any caller that asks about its own token: the handler checks which.
    OwnOr(Scope),
    /// Decided by the setting for reflection.
    Reflection,
    /// Decided by the setting for health checks.
    Health,
}

const fn scope(path: &'static str, scope: Scope) -> (&'static str, RequiredScope) {
    (path, RequiredScope::Scope(scope))
}

/// Every method, and the scope that it requires.
const METHODS: &[(&str, RequiredScope)] = &[
    scope("/tidings.v1.EventService/PublishEvent", Publish),
    scope("/tidings.v1.EventService/BatchPublishEvents", Publish),
    scope("/tidings.v1.EventService/StreamPublishEvents", Publish),
    scope("/tidings.v1.EventService/GetEvent", Read),
    scope("/tidings.v1.EventService/ListEvents", Read),
    // Its response is signed: a caller could POST a made-up event that the receiver takes for ours.
    scope("/tidings.v1.EventService/RenderEvent", Manage),
    scope("/tidings.v1.SubscriptionService/CreateSubscription", Manage),
    scope("/tidings.v1.SubscriptionService/GetSubscription", Read),
    scope("/tidings.v1.SubscriptionService/ListSubscriptions", Read),
    scope("/tidings.v1.SubscriptionService/ListAccounts", Read),
    scope("/tidings.v1.SubscriptionService/UpdateSubscription", Manage),
    scope("/tidings.v1.SubscriptionService/DeleteSubscription", Manage),
    scope("/tidings.v1.SubscriptionService/PauseSubscription", Manage),
    scope("/tidings.v1.SubscriptionService/ResumeSubscription", Manage),
    scope("/tidings.v1.SubscriptionService/RotateSigningSecret", Manage),
    scope("/tidings.v1.SubscriptionService/TestSubscription", Manage),
    scope("/tidings.v1.DeliveryService/GetDelivery", Read),
    scope("/tidings.v1.DeliveryService/ListDeliveries", Read),
    scope("/tidings.v1.DeliveryService/WatchDeliveries", Read),
    scope("/tidings.v1.DeliveryService/SummarizeDeliveries", Read),
    scope("/tidings.v1.DeliveryService/GetDeliveryStats", Read),
    scope("/tidings.v1.DeliveryService/RetryDelivery", Manage),
    scope("/tidings.v1.DeliveryService/CancelDelivery", Manage),
    scope("/tidings.v1.DeliveryService/ReplayDeliveries", Manage),
    scope("/tidings.v1.AccessTokenService/CreateAccessToken", Admin),
    // Its handler requires the scope, except for the token of the call itself.
    ("/tidings.v1.AccessTokenService/GetAccessToken", RequiredScope::OwnOr(Admin)),
    scope("/tidings.v1.AccessTokenService/ListAccessTokens", Admin),
    scope("/tidings.v1.AccessTokenService/RevokeAccessToken", Admin),
    scope("/tidings.v1.AuditService/ListAuditRecords", Manage),
    // For the sinks of all accounts the handler requires Admin besides.
    scope("/tidings.v1.NoticeService/CreateNoticeSink", Manage),
    scope("/tidings.v1.NoticeService/GetNoticeSink", Read),
    scope("/tidings.v1.NoticeService/ListNoticeSinks", Read),
    scope("/tidings.v1.NoticeService/DeleteNoticeSink", Manage),
    scope("/tidings.v1.NoticeService/TestNoticeSink", Manage),
    scope("/tidings.v1.BackupService/CreateBackup", Admin),
    ("/grpc.health.v1.Health/Check", RequiredScope::Health),
    ("/grpc.health.v1.Health/Watch", RequiredScope::Health),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", RequiredScope::Reflection),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", RequiredScope::Reflection),
];

/// The scope that the method with this path requires; `None` if it is not in the table.
pub(super) fn required(path: &str) -> Option<RequiredScope> {
    METHODS.iter().find(|(known, _)| *known == path).map(|(_, required)| *required)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::grpc::wire::methods;

    /// The paths of all methods that are served.
    fn served() -> BTreeSet<String> {
        methods::served().iter().map(|method| method.path.clone()).collect()
    }

    #[test]
    fn every_method_has_a_scope_and_every_scope_a_method() {
        let served = served();
        assert!(served.len() >= 30, "{served:#?}");
        let listed: BTreeSet<_> = METHODS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed, served);
        assert_eq!(METHODS.len(), served.len(), "one of them is there twice");
    }

    #[test]
    fn every_method_of_the_contract_needs_a_scope() {
        for path in served().iter().filter(|path| path.starts_with("/tidings.")) {
            assert!(
                matches!(required(path), Some(RequiredScope::Scope(_) | RequiredScope::OwnOr(_))),
                "{path}"
            );
        }
    }

    #[test]
    fn the_documentation_says_the_same() {
        let document = include_str!("../../../../docs/security.md");
        for (path, required) in METHODS {
            let (RequiredScope::Scope(scope) | RequiredScope::OwnOr(scope)) = required else { continue };
            let method = path.rsplit('/').next().unwrap();
            let row = document.lines().find(|line| line.starts_with(&format!("| `{}` |", scope.word())));
            let row = row.unwrap_or_else(|| panic!("there is no row of {}", scope.word()));
            assert!(row.contains(method), "{method} is not among those that need {}", scope.word());
        }
    }
}
