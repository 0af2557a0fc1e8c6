//! `features` and `--version`.

use container_core::oci_spec::runtime::VERSION;

use crate::failure::Failure;

pub fn features() -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&container_core::features())
        .map_err(|error| Failure::because("print the features", error))?;
    println!("{text}");
    Ok(())
}

pub fn version(program: &str) {
    let commit = option_env!("OCI_RUNTIME_COMMIT").unwrap_or("unknown");
    println!("{program} version {}\ncommit: {commit}\nspec: {VERSION}", env!("CARGO_PKG_VERSION"));
}
