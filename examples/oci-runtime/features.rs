//! `features` and `--version`.

use container_core::SPEC_VERSION;

use crate::failure::Failure;

pub fn features() -> Result<(), Failure> {
    let because = |error| Failure::because("print the features", error);
    let mut document = serde_json::to_value(container_core::features()).map_err(because)?;
    if let Some(fields) = document.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        // containerd asks runtimes for this one by runc's name.
        let annotations = serde_json::json!({ "org.opencontainers.runc.checkpoint.enabled": "false" });
        fields.insert("annotations".to_owned(), annotations);
    }
    println!("{}", serde_json::to_string_pretty(&document).map_err(because)?);
    Ok(())
}

pub fn version(program: &str) {
    let commit = option_env!("OCI_RUNTIME_COMMIT").unwrap_or("unknown");
    println!("{program} version {}\ncommit: {commit}\nspec: {SPEC_VERSION}", env!("CARGO_PKG_VERSION"));
}
