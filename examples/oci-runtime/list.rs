//! `list`: all containers of the state directory.

use std::fmt::Write as _;

use crate::context::Context;
use crate::failure::Failure;
use crate::state::Report;

pub fn list(context: &Context, quiet: bool, json: bool) -> Result<(), Failure> {
    if context.root_given && !context.state.path().is_dir() {
        return Err(Failure::new(format!(
            "state directory {} does not exist",
            context.state.path().display()
        )));
    }
    let names = context.state.list()?;
    if quiet {
        print!("{}", names.iter().map(|name| format!("{name}\n")).collect::<String>());
        return Ok(());
    }
    // A container that is being created, or goes away while it is listed, has nothing to be printed.
    let found: Vec<_> = names.iter().filter_map(|name| context.find(name).ok()).collect();
    let reports: Vec<_> = found.iter().map(Report::new).collect();
    if json {
        let text =
            serde_json::to_string(&reports).map_err(|error| Failure::because("print the list", error))?;
        println!("{text}");
        return Ok(());
    }
    let rows = reports.iter().map(|report| {
        [
            report.id.to_owned(),
            report.pid.to_string(),
            report.status.to_string(),
            report.bundle.display().to_string(),
            report.created.to_owned(),
            report.owner.clone(),
        ]
    });
    let titles = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    print!("{}", table(std::iter::once(titles).chain(rows).collect()));
    Ok(())
}

/// Rows as columns of equal width, as wide as runc makes them.
fn table(rows: Vec<[String; 6]>) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).saturating_add(3).max(12);
    let widths: Vec<_> = (0..6).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
