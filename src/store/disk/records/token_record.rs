//! An access token as it is on disk.

use super::RecordError;
use crate::domain::{
    access::{AccessToken, Accounts, Rights, Scope, TokenHash, TokenId},
    ids::AccountId,
    time::UnixMicros,
};

/// The first byte of a key in the tokens' tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokensKind {
    /// By id: [`AccessTokenRecord`].
    Token = 1,
}

/// An access token, without its text.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AccessTokenRecord {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// For people.
    #[prost(string, tag = "2")]
    pub display_name: String,
    /// The SHA-256 of its text.
    #[prost(bytes = "vec", tag = "3")]
    pub hash: Vec<u8>,
    /// 1 publish, 2 read, 3 manage, 4 admin.
    #[prost(uint32, repeated, tag = "4")]
    pub scopes: Vec<u32>,
    /// Its accounts; none for all.
    #[prost(int64, repeated, tag = "5")]
    pub accounts: Vec<i64>,
    /// When it was made, in microseconds since the epoch, as all times here.
    #[prost(int64, tag = "6")]
    pub create_time: i64,
    /// When it stops being valid.
    #[prost(int64, optional, tag = "7")]
    pub expire_time: Option<i64>,
    /// When it was revoked.
    #[prost(int64, optional, tag = "8")]
    pub revoke_time: Option<i64>,
    /// When a call was last made with it.
    #[prost(int64, optional, tag = "9")]
    pub last_use_time: Option<i64>,
}

impl AccessTokenRecord {
    /// The id of the token.
    pub fn token_id(&self) -> Result<TokenId, RecordError> {
        let wrong = |_| RecordError(format!("the name of the access token {:?}", self.name));
        self.name.parse().map_err(wrong)
    }
}

impl From<&AccessToken> for AccessTokenRecord {
    fn from(token: &AccessToken) -> Self {
        let micros = |time: Option<UnixMicros>| time.map(|time| time.0);
        Self {
            name: token.id.name(),
            display_name: token.display_name.clone(),
            hash: token.hash.as_bytes().to_vec(),
            scopes: token.rights.scopes.iter().map(|scope| number_of(*scope)).collect(),
            accounts: token.rights.accounts.named().iter().map(|account| account.get()).collect(),
            create_time: token.create_time.0,
            expire_time: micros(token.expire_time),
            revoke_time: micros(token.revoke_time),
            last_use_time: micros(token.last_use_time),
        }
    }
}

impl TryFrom<AccessTokenRecord> for AccessToken {
    type Error = RecordError;

    fn try_from(record: AccessTokenRecord) -> Result<Self, RecordError> {
        let wrong = |what: &str| RecordError(format!("{what} of the access token {:?}", record.name));
        let scopes: Option<Vec<_>> = record.scopes.iter().map(|number| scope_of(*number)).collect();
        let accounts: Result<Vec<_>, _> =
            record.accounts.iter().map(|number| AccountId::new(*number)).collect();
        let hash: Result<[u8; 32], _> = record.hash.as_slice().try_into();
        Ok(Self {
            id: record.token_id()?,
            hash: TokenHash::from_bytes(hash.map_err(|_| wrong("the hash"))?),
            rights: Rights {
                scopes: scopes.ok_or_else(|| wrong("a scope"))?,
                accounts: Accounts::of(accounts.map_err(|_| wrong("an account"))?),
            },
            create_time: UnixMicros(record.create_time),
            expire_time: record.expire_time.map(UnixMicros),
            revoke_time: record.revoke_time.map(UnixMicros),
            last_use_time: record.last_use_time.map(UnixMicros),
            display_name: record.display_name,
        })
    }
}

fn number_of(scope: Scope) -> u32 {
    match scope {
        Scope::Publish => 1,
        Scope::Read => 2,
        Scope::Manage => 3,
        Scope::Admin => 4,
    }
}

fn scope_of(number: u32) -> Option<Scope> {
    Scope::ALL.into_iter().find(|scope| number_of(*scope) == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> AccessToken {
        AccessToken {
            id: TokenId::made_of(7),
            display_name: "the inbox".to_owned(),
            hash: TokenHash::of("a token"),
            rights: Rights {
                scopes: Scope::ALL.into(),
                accounts: Accounts::of(vec![AccountId::new(3).unwrap(), AccountId::new(1).unwrap()]),
            },
            create_time: UnixMicros(1),
            expire_time: Some(UnixMicros(4)),
            revoke_time: Some(UnixMicros(3)),
            last_use_time: Some(UnixMicros(2)),
        }
    }

    #[test]
    fn a_token_comes_back_as_it_was_written() {
        let plain = AccessToken {
            rights: Rights { scopes: vec![Scope::Read], accounts: Accounts::All },
            expire_time: None,
            revoke_time: None,
            last_use_time: None,
            ..token()
        };
        for token in [token(), plain] {
            assert_eq!(AccessToken::try_from(AccessTokenRecord::from(&token)), Ok(token));
        }
    }

    #[test]
    fn a_record_that_makes_no_sense_is_refused() {
        let spoilt: [fn(&mut AccessTokenRecord); 5] = [
            |record| record.name = "accessTokens/".to_owned(),
            |record| record.hash.truncate(31),
            |record| record.scopes.push(5),
            |record| record.scopes.push(0),
            |record| record.accounts.push(0),
        ];
        for spoil in spoilt {
            let mut record = AccessTokenRecord::from(&token());
            spoil(&mut record);
            assert!(AccessToken::try_from(record.clone()).is_err(), "{record:?} was taken");
        }
    }
}
