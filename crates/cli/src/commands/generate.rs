//! `dormouse generate`.

use std::path::PathBuf;

use dormouse_core::{Error, Result};
use dormouse_engine::generate;
use serde_json::json;

use crate::{
    args::{Dataset, GenerateArgs},
    printer::Printer,
};

pub(super) fn run(args: &GenerateArgs, printer: Printer) -> Result<()> {
    let files = write(args)?;
    printer.value(&json!({ "files": files }), |_| {
        let paths: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        paths.join("\n")
    })
}

/// Writes the files and returns their paths.
pub(super) fn write(args: &GenerateArgs) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(&args.output).map_err(|error| {
        Error::invalid(format!("cannot make directory {}", args.output.display())).with_source(error)
    })?;
    match args.dataset {
        Dataset::Sleeper => {
            let letters = usize::from(args.value_letters);
            generate::sleeper(&args.output, args.rows, args.files, letters, args.seed)
        }
        Dataset::Lineitem => generate::lineitem(&args.output, args.scale, args.files),
    }
}
