//! Which ServiceAccount the pod runs with.
//!
//! A pod has one identity. `default` belongs to nobody in particular, so it is replaced by one that has exactly the rights
//! the sidecar needs. An account that the user chose may carry cloud roles and pull secrets; it is kept, and the
//! namespace's RoleBinding gives it those rights in addition.

use serde_json::{Value, json};

use super::annotations::AccountChoice;
use super::patch::{Edit, Misshapen, place};

/// Name of the ServiceAccount that is made in every prepared namespace.
pub const NAME: &str = "geth-peering";

/// The account of a pod whose author chose none.
pub(super) const UNCHOSEN: &str = "default";

/// The ServiceAccount that a pod is to run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountPlan {
    /// Its name; the sidecar's rights have to be bound to it.
    pub name: String,
    /// The one that the pod as received names, if another: then this one must exist before the pod does.
    pub replaces: Option<String>,
    /// The namespace of the registry, if the pod names one: the account needs its rights there as well.
    pub registry: Option<String>,
}

/// Whether the ServiceAccount of the [`AccountPlan`] exists and has its rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// It does.
    Ready,
    /// It exists and does not have its rights yet. The pod gets it, and it its rights later.
    Unbound(Lack),
    /// It may not even exist. The pod then keeps its own account, or it could not run at all.
    Missing(Lack),
}

/// Rights that an account should have and has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Why, as the end of a sentence.
    pub why: String,
    /// Whether they are owed to the account under which the pod runs, which the pod then says: a dry run's pod never runs.
    pub owed: bool,
}

/// What account a pod is to have.
pub(super) fn plan(pod: &Value, choice: AccountChoice, registry: Option<String>) -> AccountPlan {
    // `serviceAccount` is the deprecated name of the field; the other one counts where both are set.
    let named = |field: &str| pod["spec"][field].as_str().filter(|name| !name.is_empty());
    let current = named("serviceAccountName").or_else(|| named("serviceAccount")).unwrap_or(UNCHOSEN);
    let replace = match choice {
        AccountChoice::Automatic => current == UNCHOSEN,
        AccountChoice::Keep => false,
        AccountChoice::Replace => true,
    };
    if replace && current != NAME {
        AccountPlan { name: NAME.to_owned(), replaces: Some(current.to_owned()), registry }
    } else {
        AccountPlan { name: current.to_owned(), replaces: None, registry }
    }
}

/// Gives the pod its account as far as that exists. The account that is owed its rights, if one is.
pub(super) fn give<'a>(
    edit: &mut Edit<'_>,
    plan: &'a AccountPlan,
    account: &Account,
    warnings: &mut Vec<String>,
) -> Result<Option<&'a String>, Misshapen> {
    Ok(match account {
        Account::Ready => {
            put(edit, plan)?;
            None
        }
        Account::Unbound(Lack { why, owed }) => {
            put(edit, plan)?;
            warnings.push(format!("the pod's sidecar does not have the rights that it needs to find peers: {why}"));
            owed.then_some(&plan.name)
        }
        Account::Missing(Lack { why, owed }) => {
            warnings.push(format!(
                "the pod keeps its ServiceAccount, and its sidecar may lack the rights to find peers: {why}"
            ));
            owed.then_some(plan.replaces.as_ref().unwrap_or(&plan.name))
        }
    })
}

/// Makes the pod's account that of the plan.
fn put(edit: &mut Edit<'_>, plan: &AccountPlan) -> Result<(), Misshapen> {
    if plan.replaces.is_some() {
        edit.set(&place(["spec", "serviceAccountName"]), json!(plan.name))?;
        let deprecated = place(["spec", "serviceAccount"]);
        if edit.get(&deprecated).is_some() {
            edit.set(&deprecated, json!(plan.name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_only_an_account_that_nobody_chose_replaced() {
        for (spec, choice, name, replaces) in [
            (json!({}), AccountChoice::Automatic, NAME, Some("default")),
            (json!({"serviceAccountName": "default"}), AccountChoice::Automatic, NAME, Some("default")),
            (json!({"serviceAccountName": ""}), AccountChoice::Automatic, NAME, Some("default")),
            (json!({"serviceAccountName": "mine"}), AccountChoice::Automatic, "mine", None),
            (json!({"serviceAccount": "mine"}), AccountChoice::Automatic, "mine", None),
            (json!({"serviceAccountName": NAME}), AccountChoice::Automatic, NAME, None),
            (json!({"serviceAccountName": NAME}), AccountChoice::Replace, NAME, None),
            (json!({"serviceAccountName": "mine"}), AccountChoice::Replace, NAME, Some("mine")),
            (json!({}), AccountChoice::Keep, "default", None),
            (json!({"serviceAccountName": "mine"}), AccountChoice::Keep, "mine", None),
        ] {
            let pod = json!({"spec": spec});
            let expected = AccountPlan { name: name.to_owned(), replaces: replaces.map(str::to_owned), registry: None };
            assert_eq!(plan(&pod, choice, None), expected, "{pod} {choice:?}");
        }
    }
}
