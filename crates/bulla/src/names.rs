//! Names of principals for people: verified, looked up once.

use bulla_client::Client;
use bulla_wire::id::PrincipalId;
use std::collections::HashMap;

/// Looks names up.
pub struct Names {
    client: Client,
    known: HashMap<PrincipalId, Option<String>>,
}

impl Names {
    /// Nobody is known yet.
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone(), known: HashMap::new() }
    }

    /// The name, or the id if there is no name that holds.
    pub async fn short(&mut self, principal: &PrincipalId) -> String {
        self.find(principal).await.unwrap_or_else(|| principal.to_string())
    }

    /// The name with the id.
    pub async fn full(&mut self, principal: &PrincipalId) -> String {
        match self.find(principal).await {
            Some(name) => format!("{name} {principal}"),
            None => principal.to_string(),
        }
    }

    async fn find(&mut self, principal: &PrincipalId) -> Option<String> {
        if let Some(known) = self.known.get(principal) {
            return known.clone();
        }
        // Whoever stands in the document needs no look-up.
        let standing = self.client.view().await.ok();
        let standing = standing.and_then(|view| view.standing(principal).map(|record| record.name().to_string()));
        let name = match standing {
            Some(name) => Some(name),
            None => self.client.resolve_id(principal).await.ok().map(|resolved| resolved.name().to_string()),
        };
        self.known.insert(*principal, name.clone());
        name
    }
}
