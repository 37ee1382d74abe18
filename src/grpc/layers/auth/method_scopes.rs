//! The table of methods and what each of them needs. docs/security.md has it as well, and a test compares them.

use crate::domain::access::Scope::{self, Admin, Manage, Publish, Read};

/// What a method needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A caller with this scope.
    Scope(Scope),
    /// As the setting for reflection says.
    Reflection,
    /// As the setting for health checks says.
    Health,
}

const fn scope(path: &'static str, scope: Scope) -> (&'static str, Need) {
    (path, Need::Scope(scope))
}

/// Every method, and what it needs.
const NEEDS: &[(&str, Need)] = &[
    scope("/tidings.v1.EventService/PublishEvent", Publish),
    scope("/tidings.v1.EventService/BatchPublishEvents", Publish),
    scope("/tidings.v1.EventService/StreamPublishEvents", Publish),
    scope("/tidings.v1.EventService/GetEvent", Read),
    scope("/tidings.v1.EventService/ListEvents", Read),
    // Its answer is signed: who gets it could POST a made-up event that the receiver takes for ours.
    scope("/tidings.v1.EventService/RenderEvent", Manage),
    scope("/tidings.v1.SubscriptionService/CreateSubscription", Manage),
    scope("/tidings.v1.SubscriptionService/GetSubscription", Read),
    scope("/tidings.v1.SubscriptionService/ListSubscriptions", Read),
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
    scope("/tidings.v1.DeliveryService/RetryDelivery", Manage),
    scope("/tidings.v1.DeliveryService/CancelDelivery", Manage),
    scope("/tidings.v1.DeliveryService/ReplayDeliveries", Manage),
    scope("/tidings.v1.AccessTokenService/CreateAccessToken", Admin),
    scope("/tidings.v1.AccessTokenService/GetAccessToken", Admin),
    scope("/tidings.v1.AccessTokenService/ListAccessTokens", Admin),
    scope("/tidings.v1.AccessTokenService/RevokeAccessToken", Admin),
    scope("/tidings.v1.AuditService/ListAuditRecords", Manage),
    ("/grpc.health.v1.Health/Check", Need::Health),
    ("/grpc.health.v1.Health/Watch", Need::Health),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Reflection),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Need::Reflection),
];

/// What the method with this path needs; `None` if it is not in the table.
pub(super) fn of(path: &str) -> Option<Need> {
    NEEDS.iter().find(|(known, _)| *known == path).map(|(_, need)| *need)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::grpc::server::serve::DESCRIBED;

    /// The paths of all methods that are served.
    fn served() -> BTreeSet<String> {
        let sets = DESCRIBED.map(|set| FileDescriptorSet::decode(set).unwrap());
        let mut paths = BTreeSet::new();
        for file in sets.iter().flat_map(|set| &set.file) {
            for service in &file.service {
                let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
                paths.extend(service.method.iter().map(|method| path(method.name())));
            }
        }
        paths
    }

    #[test]
    fn no_method_is_without_a_need_and_no_need_without_a_method() {
        let served = served();
        assert!(served.len() >= 30, "{served:#?}");
        let listed: BTreeSet<_> = NEEDS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed, served);
        assert_eq!(NEEDS.len(), served.len(), "one of them is there twice");
    }

    #[test]
    fn every_method_of_the_contract_needs_a_scope() {
        for path in served().iter().filter(|path| path.starts_with("/tidings.")) {
            assert!(matches!(of(path), Some(Need::Scope(_))), "{path}");
        }
    }

    #[test]
    fn the_documentation_says_the_same() {
        let document = include_str!("../../../../docs/security.md");
        for (path, need) in NEEDS {
            let Need::Scope(scope) = need else { continue };
            let method = path.rsplit('/').next().unwrap();
            let row = document.lines().find(|line| line.starts_with(&format!("| `{}` |", scope.word())));
            let row = row.unwrap_or_else(|| panic!("there is no row of {}", scope.word()));
            assert!(row.contains(method), "{method} is not among those that need {}", scope.word());
        }
    }
}
