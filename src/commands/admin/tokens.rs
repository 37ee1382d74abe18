//! `tidings tokens`.

use anyhow::anyhow;
use clap::Subcommand;
use tonic::transport::Channel;

use super::{
    Administer,
    choices::{enumeration, one_of, short},
    errors::FlagNames,
    gateway::Gateway,
    lists::{self, ListArguments, Page, list},
    names,
    output::Resource,
    times::{self, When},
};
use crate::{
    commands::{connection::parse_account, ending::Ending},
    domain::ids::AccountScope,
    proto::v1::{
        AccessToken, CreateAccessTokenRequest, ListAccessTokensRequest, ListAccessTokensResponse,
        RevokeAccessTokenRequest, access_token_service_client::AccessTokenServiceClient,
    },
};

const FLAGS: FlagNames = &[
    ("name", "TOKEN"),
    ("access_token.display_name", "NAME"),
    ("access_token.scopes", "--scope"),
    ("access_token.accounts", "--account"),
    ("access_token.expire_time", "--expires"),
];

/// What to do with access tokens.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Action {
    /// Create a token, and print its secret once.
    Create(Create),
    /// List tokens.
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// End a token for ever.
    Revoke(Revoke),
}

/// A new token. It is for the account of --account, which - makes all.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Create {
    /// Its name for people.
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
    /// Scopes, separated by commas: publish, read, manage, admin.
    #[arg(long = "scope", short = 's', value_name = "SCOPES", value_delimiter = ',', required = true, value_parser = one_of("tidings.v1.AccessToken.Scope"), hide_possible_values = true)]
    scopes: Vec<i32>,
    /// Further accounts, separated by commas.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = parse_account)]
    also_accounts: Vec<AccountScope>,
    /// End of its validity, such as 90d or 2027-01-01. [default: never]
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    expires: Option<When>,
}

/// A token to end.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Revoke {
    /// Its id, or its whole name.
    token: String,
}

impl Administer for Action {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        match self {
            Self::Create(create) => create.run(gateway).await,
            Self::List(arguments) => list_tokens(gateway, arguments).await,
            Self::Revoke(revoke) => revoke.run(gateway).await,
        }
    }
}

fn client(gateway: &Gateway) -> AccessTokenServiceClient<Channel> {
    AccessTokenServiceClient::new(gateway.channel())
}

impl Create {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let first = gateway.account.ok_or_else(|| {
            Ending::Misused(anyhow!(
                "a token for which account? Use --account NUMBER, or --account - for all"
            ))
        })?;
        let accounts: Vec<_> = [first].into_iter().chain(self.also_accounts).collect();
        // No account in the message stands for all.
        let accounts = match accounts.contains(&AccountScope::All) {
            true => Vec::new(),
            false => accounts.into_iter().map(names::account).collect(),
        };
        let access_token = AccessToken {
            display_name: self.name,
            scopes: self.scopes,
            accounts,
            expire_time: self.expires.map(|time| time.after(gateway.now())),
            ..AccessToken::default()
        };
        let request = CreateAccessTokenRequest { access_token: Some(access_token), ..Default::default() };
        let response =
            gateway.call(FLAGS, client(gateway).create_access_token(gateway.request(request))).await?;
        let created = response.access_token.clone().unwrap_or_default();
        gateway.output.change(
            &response,
            &created.name,
            &format!("created, for {}", accounts_of(&created)),
        )?;
        gateway.output.secret("token", &response.token)
    }
}

async fn list_tokens(gateway: &Gateway, arguments: ListArguments) -> Result<(), Ending> {
    list(gateway, arguments, lists::ALL, async |page_size, page_token| {
        let request = ListAccessTokensRequest { page_size, page_token };
        gateway.call(FLAGS, client(gateway).list_access_tokens(gateway.request(request))).await
    })
    .await
}

impl Revoke {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let id = self.token.strip_prefix("accessTokens/").unwrap_or(&self.token);
        let name = format!("accessTokens/{id}");
        let request = RevokeAccessTokenRequest { name: name.clone() };
        let response =
            gateway.call(FLAGS, client(gateway).revoke_access_token(gateway.request(request))).await?;
        gateway.output.change(&response, &name, "revoked")
    }
}

fn accounts_of(token: &AccessToken) -> String {
    if token.accounts.is_empty() { "all accounts".to_owned() } else { token.accounts.join(",") }
}

impl Page for ListAccessTokensResponse {
    type Item = AccessToken;

    fn items(&mut self) -> &mut Vec<AccessToken> {
        &mut self.access_tokens
    }

    fn next_page_token(&mut self) -> &mut String {
        &mut self.next_page_token
    }
}

impl Resource for AccessToken {
    const COLUMNS: &'static [&'static str] =
        &["TOKEN", "NAME", "STATE", "SCOPES", "ACCOUNTS", "LAST USE", "EXPIRES"];

    fn id(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, _: Option<AccountScope>) -> Vec<String> {
        let scopes = enumeration("tidings.v1.AccessToken.Scope");
        let scopes: Vec<_> = self.scopes.iter().map(|number| short(&scopes, *number)).collect();
        vec![
            self.name.trim_start_matches("accessTokens/").to_owned(),
            if self.display_name.is_empty() { "-".to_owned() } else { self.display_name.clone() },
            short(&enumeration("tidings.v1.AccessToken.State"), self.state),
            scopes.join(","),
            accounts_of(self),
            times::shown(self.last_use_time.as_ref()),
            times::shown(self.expire_time.as_ref()),
        ]
    }
}
