//! Use cases of the sinks of notices: create, read, list, delete, test. A sink is stored as a subscription that
//! receives notices only.

use std::sync::Arc;

use super::{Created, Gateway, GatewayError, RequestKey, Tested};
use crate::{
    domain::{
        event_routing::OrderTag,
        field_violation::FieldViolations,
        ids::{AccountId, NoticeSinkName, SubscriptionId, SubscriptionName},
        notice::{NOTICE_SINKS_MAX, NoticeKind, NoticeKinds},
        signature,
        subscription::{Settings, Subscription},
    },
    event::notice::Notice,
    proto::v1::{self, EventType},
    store::NewSubscription,
};

/// A sink to create.
#[derive(Clone, Debug)]
pub struct CreateNoticeSink {
    /// Its account, or all.
    pub account: AccountId,
    /// The last part of its name; `None` for a generated one.
    pub id: Option<SubscriptionId>,
    /// Its settings, from [`Gateway::check_notice_sink`].
    pub settings: Settings,
    /// Identifies the request: a repetition returns the first result.
    pub request: Option<RequestKey>,
}

impl Gateway {
    /// The settings of a sink, or every violation, with field paths that start with `path`. Pure.
    pub fn check_notice_sink(
        &self,
        message: &v1::NoticeSink,
        kinds: NoticeKinds,
        path: &str,
    ) -> Result<Settings, FieldViolations> {
        // The rules are those of subscriptions.
        let subscription = v1::Subscription {
            display_name: message.display_name.clone(),
            url: message.url.clone(),
            headers: message.headers.clone(),
            event_types: vec![EventType::MessageCreated.into()],
            ..v1::Subscription::default()
        };
        let settings = self.check_subscription(&subscription, path)?;
        Ok(Settings { event_types: Vec::new().into(), notices: Some(kinds), ordered: true, ..settings })
    }

    /// Creates a sink.
    pub async fn create_notice_sink(&self, create: CreateNoticeSink) -> Result<Created, GatewayError> {
        let CreateNoticeSink { account, id, settings, request } = create;
        let _adding = self.0.adding.lock().await;
        // A repeated request finds its own sink among those that are there: it is not one more.
        let name = |id: &SubscriptionId| SubscriptionName { account, id: id.of_sink() };
        let is_there = id.as_ref().is_some_and(|id| self.0.store.registry().by_name(&name(id)).is_some());
        if !is_there {
            self.check_sink_limit(account)?;
            self.check_subscription_bytes(account, settings.bytes())?;
        }
        let id = id.unwrap_or_else(|| SubscriptionId::made_from(self.random_uuid()));
        let signer = self.with_rng(signature::new_secret).into();
        let new = NewSubscription { name: name(&id), settings, signer, request };
        Ok(self.0.store.create_subscription(new).await?)
    }

    /// Reads one sink.
    pub fn get_notice_sink(&self, name: &NoticeSinkName) -> Result<Arc<Subscription>, GatewayError> {
        self.get_subscription(&name.0)
    }

    /// The sinks of an account, or those for all accounts, by name.
    pub fn list_notice_sinks(&self, account: AccountId) -> Vec<Arc<Subscription>> {
        let mut sinks = self.0.store.registry().sinks_about(account);
        sinks.retain(|sink| sink.name.account == account);
        sinks.sort_by(|one, other| one.name.cmp(&other.name));
        sinks
    }

    /// POSTs a sample notice once: of this kind, or of the first one that the sink receives. Nothing is stored.
    pub async fn test_notice_sink(
        &self,
        name: &NoticeSinkName,
        kind: Option<NoticeKind>,
    ) -> Result<Tested, GatewayError> {
        let sink = self.get_notice_sink(name)?;
        let _permit = self.test_permit(name.0.account)?;
        let first = || sink.settings.notices.and_then(|kinds| kinds.iter().next());
        // A sink of a later version may receive kinds that are not known here.
        let kind = kind.or_else(first).unwrap_or(NoticeKind::EndpointFailing);
        Ok(self.post_once(sink, Notice::sample(kind).content(OrderTag(0))).await)
    }

    fn check_sink_limit(&self, account: AccountId) -> Result<(), GatewayError> {
        let max = NOTICE_SINKS_MAX;
        if self.list_notice_sinks(account).len() < max {
            return Ok(());
        }
        Err(GatewayError::TooManySinks { account, max })
    }
}
