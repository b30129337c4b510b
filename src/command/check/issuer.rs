//! Reads what the session issuer publishes, as STS does, and the public keys of the config.

use futures_util::future::join_all;

use crate::{
    check::{IssuerFacts, PublishedText, Seen},
    command::{
        aws_client::connector,
        issuer::{Unread, public_key, read},
    },
    config::{Config, IssuerSettings},
    issuer::{discovery_url, keys_url},
    session::CaBundle,
};

pub(super) async fn look(issuer: &IssuerSettings, config: &Config) -> IssuerFacts {
    let trusted: Vec<&str> = config.aws_ca_bundle.iter().map(CaBundle::as_str).collect();
    let connector = connector(&trusted);
    let published = async |url: String| match read(&connector, &url).await {
        Ok(text) => PublishedText::File(text),
        Err(Unread::NoAnswer(why)) => PublishedText::NoAnswer(why),
        Err(Unread::Refused(why)) => PublishedText::Refused(why),
    };
    let (discovery, keys) = (discovery_url(&issuer.url), keys_url(&issuer.url));
    let own = join_all(issuer.keys.iter().map(|key| async {
        match public_key(&key.source, &trusted).await {
            Ok(key) => Seen::Known(key),
            Err(error) => Seen::Hidden(format!("{error:#}")),
        }
    }));
    let (discovery, keys, own) = tokio::join!(published(discovery), published(keys), own);
    IssuerFacts { discovery, keys, own }
}
