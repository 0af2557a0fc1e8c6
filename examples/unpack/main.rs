//! Unpacks an image file into a plain directory.
//!
//! `unpack [--platform os/arch[/variant]] [--ref REF] [--max-layer-bytes N] IMAGE ROOTFS` takes any input the library
//! knows (docker save archive, OCI archive or layout, gzipped or not) and needs no store. `unpack --config IMAGE` prints
//! the image's configuration as JSON instead. A failure is one line that begins with its class, such as `digest: ...`.

use std::error::Error as _;
use std::ffi::OsString;
use std::process::ExitCode;

use image_layers::{Error, ImportOptions, Limits, Source};
use lexopt::{Arg, ValueExt};

const USAGE: &str =
    "usage: unpack [--platform OS/ARCH[/VARIANT]] [--ref REF] [--max-layer-bytes N] IMAGE ROOTFS
       unpack [--platform OS/ARCH[/VARIANT]] [--ref REF] --config IMAGE";

fn main() -> ExitCode {
    let (options, config, paths) = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options, config, &paths) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The class and all causes, on one line whatever names they hold.
fn line(error: &Error) -> String {
    let mut line = format!("{}: {error}", error.class());
    let mut cause = error.source();
    while let Some(error) = cause {
        line += &format!(": {error}");
        cause = error.source();
    }
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    line.chars().map(escape).collect()
}

fn arguments() -> Result<(ImportOptions, bool, Vec<OsString>), lexopt::Error> {
    let (mut options, mut limits, mut config, mut paths) =
        (ImportOptions::new(), Limits::default(), false, Vec::new());
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("platform") => options = options.platform(parser.value()?.parse()?),
            Arg::Long("ref") => options = options.reference(parser.value()?.string()?),
            Arg::Long("max-layer-bytes") => limits.layer_bytes = parser.value()?.parse()?,
            Arg::Long("config") => config = true,
            Arg::Value(path) => paths.push(path),
            other => return Err(other.unexpected()),
        }
    }
    if paths.len() != if config { 1 } else { 2 } {
        return Err("an image file and a directory are needed".into());
    }
    Ok((options.limits(limits), config, paths))
}

fn run(options: &ImportOptions, config: bool, paths: &[OsString]) -> Result<(), Error> {
    let source = Source::open(&paths[0], options)?;
    let image = source.image(options)?;
    if config {
        println!("{:#}", image.config().raw());
        return Ok(());
    }
    image.unpack(&paths[1])
}
