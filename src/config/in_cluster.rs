//! Where the control plane is for a container that one runs, as its variables tell.
//!
//! The names are those that control planes set for the PyPI SDK, so an app finds its way back with
//! either.

use std::path::PathBuf;

use super::{Given, Secret};

/// Where the control plane is, seen from a container that nobody told.
const DEVBOX: &str = "host.docker.internal:8090";
/// Files that say where the control plane is.
const CONFIG_FILES: [&str; 2] = ["UCTL_CONFIG", "FLYTECTL_CONFIG"];
/// Keys that are put into containers.
const KEYS: [&str; 2] = ["_UNION_EAGER_API_KEY", "EAGER_API_KEY"];
const ENDPOINTS: [&str; 2] = ["_U_EP_OVERRIDE", "FLYTE_ADMIN_ENDPOINT"];
/// Who is told by these how to log in gets no key.
const LOGINS: [&str; 4] = [
    "FLYTE_AUTH_TYPE",
    "FLYTE_ADMIN_AUTHTYPE",
    "FLYTE_AUTH_COMMAND",
    "FLYTE_ADMIN_COMMAND",
];

/// Reads a variable; one that is set to nothing says nothing.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

fn first(names: &[&str], variable: Variable<'_>) -> Option<String> {
    names.iter().find_map(|name| variable(name))
}

/// Whether any variable says where the control plane is.
pub fn is_told(variable: Variable<'_>) -> bool {
    [&CONFIG_FILES[..], &KEYS, &ENDPOINTS]
        .iter()
        .any(|names| first(names, variable).is_some())
}

/// What is given, and the variables where it says nothing.
pub fn given(over: &Given, variable: Variable<'_>) -> Given {
    let is_on = |name: &str| {
        let text = variable(name).unwrap_or_default().to_ascii_lowercase();
        matches!(&*text, "true" | "t" | "1")
    };
    let or = |given: &Option<String>, name: &str| given.clone().or_else(|| variable(name));
    let mut given = Given {
        org: or(&over.org, "_U_ORG_NAME"),
        project: or(&over.project, "FLYTE_INTERNAL_EXECUTION_PROJECT"),
        domain: or(&over.domain, "FLYTE_INTERNAL_EXECUTION_DOMAIN"),
        disable_keyring: Some(true),
        insecure_skip_verify: is_on("_U_INSECURE_SKIP_VERIFY").then_some(true),
        image_builder: Some("remote".to_owned()),
        ..over.clone()
    };
    let config = first(&CONFIG_FILES, variable);
    if given.api_key.is_none() && config.is_none() && first(&LOGINS, variable).is_none() {
        given.api_key = first(&KEYS, variable).map(Secret::new);
    }
    if given.api_key.is_some() {
        return Given {
            endpoint: None,
            insecure: None,
            ..given
        };
    }
    if let Some(path) = config.filter(|_| given.endpoint.is_none()) {
        given.config_path = Some(PathBuf::from(path));
        return given;
    }
    let endpoint = given
        .endpoint
        .or_else(|| first(&ENDPOINTS, variable))
        .unwrap_or_else(|| DEVBOX.to_owned());
    let is_near = endpoint.contains("localhost") || endpoint.contains("docker");
    given.insecure = given
        .insecure
        .or_else(|| Some(is_near || is_on("_U_INSECURE")));
    given.endpoint = Some(endpoint);
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(over: &Given, variables: &[(&str, &str)]) -> Given {
        given(over, &|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_endpoint_comes_with_how_it_is_spoken_to() {
        for (variables, endpoint, insecure) in [
            (&[][..], DEVBOX, true),
            (&[("_U_EP_OVERRIDE", "localhost:1")], "localhost:1", true),
            (&[("_U_EP_OVERRIDE", "h.x.y")], "h.x.y", false),
            (
                &[("FLYTE_ADMIN_ENDPOINT", "h.x.y"), ("_U_INSECURE", "True")],
                "h.x.y",
                true,
            ),
        ] {
            let given = read(&Given::default(), variables);
            assert_eq!(given.endpoint.as_deref(), Some(endpoint));
            assert_eq!(given.insecure, Some(insecure), "{endpoint}");
        }
    }

    #[test]
    fn a_key_names_the_endpoint_unless_something_else_says_how_to_log_in() {
        let key = ("EAGER_API_KEY", "k");
        let at = ("_U_EP_OVERRIDE", "h.x.y");
        let given = read(&Given::default(), &[key, at, ("_U_ORG_NAME", "acme")]);
        assert_eq!((given.endpoint, given.org.as_deref()), (None, Some("acme")));
        assert_eq!(given.api_key.unwrap().reveal(), "k");
        let command = ("FLYTE_AUTH_COMMAND", "print-token");
        let given = read(&Given::default(), &[key, at, command]);
        assert_eq!(
            (given.api_key, given.endpoint.as_deref()),
            (None, Some("h.x.y"))
        );
    }

    #[test]
    fn a_file_is_read_where_no_endpoint_is_given() {
        let file = ("UCTL_CONFIG", "/c.yaml");
        let given = read(&Given::default(), &[file, ("EAGER_API_KEY", "k")]);
        assert_eq!(given.config_path.as_deref(), Some("/c.yaml".as_ref()));
        assert_eq!((given.endpoint, given.api_key), (None, None));
        let over = Given {
            endpoint: Some("h".to_owned()),
            ..Given::default()
        };
        assert_eq!(read(&over, &[file]).config_path, None);
    }

    #[test]
    fn whether_anything_is_told_is_known() {
        assert!(!is_told(&|_| None));
        assert!(is_told(
            &|name| (name == "EAGER_API_KEY").then(|| "k".to_owned())
        ));
    }
}
