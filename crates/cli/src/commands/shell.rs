//! `dormouse shell`.

use std::{collections::BTreeSet, path::PathBuf, time::Instant};

use dormouse_core::{Error, Result};
use rustyline::{
    Config, Editor, Helper, completion::Completer, config::CompletionType, error::ReadlineError,
    highlight::Highlighter, hint::Hinter, history::FileHistory, validate::Validator,
};

use super::{Context, query, table};
use crate::{args::RowsArgs, printer, signals};

const PROMPT: &str = "dormouse> ";
const CONTINUED: &str = "       -> ";

const HELP: &str = "A statement ends with ;\n  \
    \\d          the tables\n  \
    \\d TABLE    a table's columns and properties\n  \
    \\q          leaves, as Ctrl-D does\n\
    Ctrl-C stops a query, or drops what is typed. Tab completes names of tables and columns, and words of SQL.";

const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "JOIN",
    "LEFT JOIN",
    "ON",
    "USING",
    "AS",
    "AND",
    "OR",
    "NOT",
    "IN",
    "BETWEEN",
    "LIKE",
    "IS NULL",
    "IS NOT NULL",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "WITH",
    "UNION ALL",
    "DISTINCT",
    "EXPLAIN",
    "count(*)",
    "sum(",
    "min(",
    "max(",
    "avg(",
    "DESC",
];

type LineEditor = Editor<Names, FileHistory>;

/// Asks for statements and answers them, until the end of input.
pub(super) async fn run(context: &Context, args: &RowsArgs) -> Result<()> {
    let history = history();
    let mut editor = editor(names(context).await?)?;
    if let Some(path) = &history {
        // There is none before the first time.
        let _ = editor.load_history(path);
    }
    let mut typed = String::new();
    loop {
        let prompt = if typed.is_empty() { PROMPT } else { CONTINUED };
        let (returned, line) = read_line(editor, prompt).await?;
        editor = returned;
        match line {
            Ok(line) if typed.is_empty() && line.trim_start().starts_with('\\') => {
                if !command(context, line.trim()).await? {
                    break;
                }
            }
            Ok(line) => {
                typed.push_str(&line);
                typed.push('\n');
            }
            Err(ReadlineError::Interrupted) => typed.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(Error::unavailable("cannot read what is typed").with_source(error)),
        }
        if typed.trim().is_empty() {
            typed.clear();
            continue;
        }
        if let Some(statement) = typed.trim_end().strip_suffix(';') {
            let _ = editor.add_history_entry(typed.trim_end());
            answer(context, statement.to_owned(), args).await?;
            typed.clear();
        }
    }
    if let Some(path) = &history
        && let Err(error) = editor.save_history(path)
    {
        printer::note(&format!("the history is not kept in {}: {error}", path.display()));
    }
    Ok(())
}

/// Answers a statement, or says what is wrong with it.
async fn answer(context: &Context, statement: String, args: &RowsArgs) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "how long a person has waited")]
    let started = Instant::now();
    let asked = Box::pin(query::run(context, statement, Default::default(), args));
    let answered = tokio::select! {
        answered = asked => answered,
        stopped = signals::stop_signal() => {
            stopped?;
            printer::note("stopped");
            return Ok(());
        }
    };
    match answered {
        Ok(()) => printer::note(&format!("{:.3} s", started.elapsed().as_secs_f64())),
        Err(error) => printer::error(&error.report()),
    }
    Ok(())
}

/// Does what a line asks for that is no SQL; false to leave.
async fn command(context: &Context, line: &str) -> Result<bool> {
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("\\q"), None) => return Ok(false),
        (Some("\\d"), None) => table::list(context).await?,
        (Some("\\d"), Some(name)) => {
            let described = async {
                let name = name.trim_end_matches(';').parse()?;
                table::describe(context, &context.instance.services.tables.named(&name).await?).await
            };
            if let Err(error) = described.await {
                printer::error(&error.report());
            }
        }
        _ => printer::note(HELP),
    }
    Ok(true)
}

/// Reads a line on a thread of its own, as it blocks.
async fn read_line(
    mut editor: LineEditor,
    prompt: &'static str,
) -> Result<(LineEditor, rustyline::Result<String>)> {
    tokio::task::spawn_blocking(move || {
        let line = editor.readline(prompt);
        (editor, line)
    })
    .await
    .map_err(|error| Error::internal("reading a line has ended unexpectedly").with_source(error))
}

fn editor(names: Names) -> Result<LineEditor> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .auto_add_history(false)
        .build();
    let mut editor = Editor::with_config(config)
        .map_err(|error| Error::unavailable("cannot use the terminal").with_source(error))?;
    editor.set_helper(Some(names));
    Ok(editor)
}

/// Where the history is kept: in the user's directory of state.
fn history() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let directory = state.join("dormouse");
    std::fs::create_dir_all(&directory).ok()?;
    Some(directory.join("history"))
}

/// The names of tables and columns, as SQL has them.
async fn names(context: &Context) -> Result<Names> {
    let services = &context.instance.services;
    let mut names: BTreeSet<String> = WORDS.iter().map(|word| (*word).to_owned()).collect();
    for table in services.tables.list().await? {
        let state = services.states.state(&table.id).await?;
        let columns = state.schema().into_iter().flat_map(|schema| schema.columns());
        names.extend(columns.map(|column| in_sql(&column.name)));
        names.insert(in_sql(table.name.as_str()));
    }
    Ok(Names(names.into_iter().collect()))
}

/// A name as SQL has it: in quotes if it is no plain word.
fn in_sql(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.bytes().all(is_plain) && !name.starts_with(|first: char| first.is_ascii_digit()) {
        return name.to_owned();
    }
    query::quoted(name)
}

/// What a word may become.
struct Names(Vec<String>);

impl Completer for Names {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = &line[..at];
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '"' | '-');
        let start = before
            .char_indices()
            .rev()
            .take_while(|(_, c)| is_part(*c))
            .last()
            .map_or(at, |(start, _)| start);
        let word = before[start..].to_lowercase();
        let fits = |name: &&String| {
            let name = name.to_lowercase();
            name.starts_with(&word) || name.trim_start_matches('"').starts_with(&word)
        };
        let found = if word.is_empty() {
            Vec::new()
        } else {
            self.0.iter().filter(fits).cloned().collect()
        };
        Ok((start, found))
    }
}

impl Helper for Names {}
impl Highlighter for Names {}
impl Validator for Names {}
impl Hinter for Names {
    type Hint = String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_names_and_names_that_need_quotes_have_them() {
        let names = Names(vec![
            "events".to_owned(),
            in_sql("Day-Totals"),
            "SELECT".to_owned(),
        ]);
        let history = rustyline::history::MemHistory::new();
        let context = rustyline::Context::new(&history);
        let complete = |line: &str| names.complete(line, line.len(), &context).unwrap();
        assert_eq!(complete("sel"), (0, vec!["SELECT".to_owned()]));
        assert_eq!(complete("SELECT * FROM ev"), (14, vec!["events".to_owned()]));
        assert_eq!(complete("FROM day"), (5, vec!["\"Day-Totals\"".to_owned()]));
        assert_eq!(complete("FROM "), (5, Vec::new()));
    }
}
