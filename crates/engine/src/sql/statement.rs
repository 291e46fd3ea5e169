//! What a statement may be: one query, and no more of it than can be planned soon.

use std::{
    collections::{HashMap, VecDeque},
    ops::ControlFlow,
};

use datafusion::sql::{
    parser::Statement,
    sqlparser::{
        ast::{self, Visit, Visitor},
        dialect::GenericDialect,
        keywords::Keyword,
        tokenizer::{Token, Tokenizer},
    },
};
use dormouse_core::{
    Error, Result,
    ports::{MAX_JOINS, MAX_MASKED_BYTES, MAX_SQL_BYTES, MAX_SUBQUERIES, QueryLimits, QueryRefusal},
};

/// How many words, numbers, texts and signs a query has at most.
const MAX_TOKENS: usize = 40_000;
/// How deep its parentheses and brackets go at most.
const MAX_DEPTH: usize = 64;
/// How many operators it has at most that make an expression of two others: each makes the whole one deeper.
const MAX_OPERATORS: usize = 4_000;
/// How many results of `SELECT` are put together by `UNION` and the like at most.
const MAX_SET_OPERATIONS: usize = 64;
/// How many tables it reads at most, where each use of a name of `WITH` reads what the name stands for.
const MAX_TABLE_USES: usize = 256;
/// How many sets of columns it groups by at most.
const MAX_GROUPING_SETS: usize = 256;

fn beyond<T>(what: &str, most: usize) -> Result<T> {
    Err(Error::invalid(format!(
        "the query has over {most} {what}, and may have no more"
    )))
}

/// A query without what it holds, as [`QueryEngine::masked`] has it.
///
/// [`QueryEngine::masked`]: dormouse_core::ports::QueryEngine::masked
pub(super) fn masked(sql: &str) -> String {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else {
        return String::new();
    };
    let mut masked = String::new();
    for token in tokens {
        match token {
            Token::Whitespace(_) if masked.ends_with(' ') => {}
            Token::Whitespace(_) => masked.push(' '),
            Token::Word(_) | Token::Placeholder(_) => masked += &token.to_string(),
            Token::Number(..) | Token::DollarQuotedString(_) => masked.push('?'),
            // There are a dozen kinds of texts, all in quotes.
            token => match token.to_string() {
                text if text.contains(['\'', '"', '`']) => masked.push('?'),
                sign => masked += &sign,
            },
        }
        if masked.len() > MAX_MASKED_BYTES {
            masked.truncate(masked.floor_char_boundary(MAX_MASKED_BYTES));
            break;
        }
    }
    masked.trim().to_owned()
}

/// That a text is not too long, nor too deep, for what parses it.
pub(super) fn check_text(sql: &str) -> Result<()> {
    if sql.len() > MAX_SQL_BYTES {
        return Err(Error::invalid(format!(
            "the query has {} bytes, and may have {MAX_SQL_BYTES}",
            sql.len()
        )));
    }
    // What is wrong with its parts, the parser says better.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else {
        return Ok(());
    };
    let (mut count, mut depth, mut operators, mut set_operations) = (0, 0_usize, 0, 0);
    for token in &tokens {
        count += usize::from(!matches!(token, Token::Whitespace(_)));
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            Token::Word(word) => match word.keyword {
                Keyword::AND | Keyword::OR | Keyword::NOT | Keyword::IS | Keyword::COLLATE => operators += 1,
                Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS => set_operations += 1,
                _ => {}
            },
            Token::Comma
            | Token::Whitespace(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::SemiColon
            | Token::Eq
            | Token::Neq
            | Token::Lt
            | Token::Gt
            | Token::LtEq
            | Token::GtEq => {}
            _ => operators += 1,
        }
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!(
                "the query is nested over {MAX_DEPTH} deep, and may be no deeper"
            )));
        }
    }
    match () {
        () if count > MAX_TOKENS => beyond("words and signs", MAX_TOKENS),
        () if operators > MAX_OPERATORS => beyond("operators", MAX_OPERATORS),
        () if set_operations > MAX_SET_OPERATIONS => beyond("set operations", MAX_SET_OPERATIONS),
        () => Ok(()),
    }
}

/// That a statement is a query, or explains one.
pub(super) fn check_statement(statement: &Statement) -> Result<()> {
    let wrong = |found: &str| {
        let refusal = QueryRefusal::NotAQuery(found.to_owned());
        Err(refusal.into())
    };
    match statement {
        Statement::Statement(statement) => match &**statement {
            ast::Statement::Query(_) => Ok(()),
            other => {
                let text = other.to_string();
                wrong(text.split_whitespace().next().unwrap_or("this"))
            }
        },
        // What it measures names the files of tables.
        Statement::Explain(explain) if explain.options.analyze && explain.options.verbose => {
            wrong("EXPLAIN ANALYZE VERBOSE")
        }
        Statement::Explain(explain) => check_statement(&explain.statement),
        Statement::CreateExternalTable(_) => wrong("CREATE EXTERNAL TABLE"),
        Statement::CopyTo(_) => wrong("COPY"),
        Statement::Reset(_) => wrong("RESET"),
    }
}

/// That a query is not too large with every name of `WITH` written out.
pub(super) fn check_expanded(statement: &Statement, limits: &QueryLimits) -> Result<()> {
    match statement {
        Statement::Explain(explain) => check_expanded(&explain.statement, limits),
        Statement::Statement(statement) => {
            let mut size = Size::default();
            match statement.visit(&mut size) {
                ControlFlow::Break(error) => Err(error),
                ControlFlow::Continue(()) => size.check(limits),
            }
        }
        _ => Ok(()),
    }
}

/// How large the part of a query is that was visited.
#[derive(Default)]
struct Size {
    /// The query itself, those inside it, and those of `WITH`.
    queries: usize,
    of_with: usize,
    joins: usize,
    grouping_sets: usize,
    /// The queries that the visit is inside of, the innermost last.
    inside: Vec<Inside>,
    /// How many tables a name of `WITH` stands for.
    named: HashMap<String, usize>,
}

#[derive(Default)]
struct Inside {
    /// The names of `WITH` whose queries were not visited.
    names: VecDeque<String>,
    tables: usize,
}

impl Size {
    /// That all of it is within what this query may have.
    fn check(&self, limits: &QueryLimits) -> Result<()> {
        let subqueries = self.queries.saturating_sub(1 + self.of_with);
        if self.joins > limits.joins {
            return beyond("joins", limits.joins);
        }
        match subqueries > limits.subqueries {
            true => beyond("queries inside it", limits.subqueries),
            false => Ok(()),
        }
    }

    fn add_tables(&mut self, more: usize) -> ControlFlow<Error> {
        let Some(inside) = self.inside.last_mut() else {
            return ControlFlow::Continue(());
        };
        inside.tables = inside.tables.saturating_add(more);
        match inside.tables > MAX_TABLE_USES {
            true => stopped(beyond("uses of tables", MAX_TABLE_USES)),
            false => ControlFlow::Continue(()),
        }
    }

    fn add_grouping_sets(&mut self, more: Option<usize>) -> ControlFlow<Error> {
        // Those of a query multiply with each other.
        let all = more.and_then(|more| self.grouping_sets.max(1).checked_mul(more.max(1)));
        self.grouping_sets = all.unwrap_or(usize::MAX);
        match self.grouping_sets > MAX_GROUPING_SETS {
            true => stopped(beyond("grouping sets", MAX_GROUPING_SETS)),
            false => ControlFlow::Continue(()),
        }
    }
}

/// What a query does beside reading, if it does.
fn writes(body: &ast::SetExpr) -> Option<&'static str> {
    match body {
        ast::SetExpr::Insert(_) => Some("INSERT"),
        ast::SetExpr::Update(_) => Some("UPDATE"),
        ast::SetExpr::Delete(_) => Some("DELETE"),
        ast::SetExpr::Merge(_) => Some("MERGE"),
        ast::SetExpr::Select(select) => select.into.as_ref().map(|_| "SELECT INTO"),
        ast::SetExpr::SetOperation { left, right, .. } => writes(left).or_else(|| writes(right)),
        ast::SetExpr::Query(_) | ast::SetExpr::Values(_) | ast::SetExpr::Table(_) => None,
    }
}

fn stopped(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl Visitor for Size {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<Error> {
        if let Some(found) = writes(&query.body) {
            let refusal = QueryRefusal::NotAQuery(found.to_owned());
            return stopped(Err(refusal.into()));
        }
        self.queries += 1;
        if self.queries > MAX_SUBQUERIES + 1 {
            return stopped(beyond("queries inside it", MAX_SUBQUERIES));
        }
        if let Some(with) = &query.with
            && with.recursive
        {
            let refusal = QueryRefusal::NotAQuery("WITH RECURSIVE".to_owned());
            return stopped(Err(refusal.into()));
        }
        let names = query.with.iter().flat_map(|with| &with.cte_tables);
        self.of_with += query.with.as_ref().map_or(0, |with| with.cte_tables.len());
        self.inside.push(Inside {
            names: names.map(|table| table.alias.name.value.clone()).collect(),
            tables: 0,
        });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &ast::Query) -> ControlFlow<Error> {
        let Some(done) = self.inside.pop() else {
            return ControlFlow::Continue(());
        };
        let name = self.inside.last_mut().and_then(|inside| inside.names.pop_front());
        match name {
            Some(name) => {
                let named = self.named.entry(name).or_default();
                *named = (*named).max(done.tables).max(1);
                ControlFlow::Continue(())
            }
            None => self.add_tables(done.tables),
        }
    }

    fn pre_visit_select(&mut self, select: &ast::Select) -> ControlFlow<Error> {
        let joins: usize = select.from.iter().map(|from| from.joins.len()).sum();
        self.joins += joins + select.from.len().saturating_sub(1);
        match self.joins > MAX_JOINS {
            true => stopped(beyond("joins", MAX_JOINS)),
            false => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_relation(&mut self, name: &ast::ObjectName) -> ControlFlow<Error> {
        let name = match name.0.as_slice() {
            [part] => part.as_ident().map(|name| name.value.as_str()),
            _ => None,
        };
        let tables = name.and_then(|name| self.named.get(name)).copied().unwrap_or(1);
        self.add_tables(tables)
    }

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<Error> {
        match expr {
            ast::Expr::Cube(columns) => {
                let sets = u32::try_from(columns.len()).ok();
                self.add_grouping_sets(sets.and_then(|columns| 1_usize.checked_shl(columns)))
            }
            ast::Expr::Rollup(columns) => self.add_grouping_sets(Some(columns.len() + 1)),
            ast::Expr::GroupingSets(sets) => self.add_grouping_sets(Some(sets.len())),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_holds_is_masked() {
        let sql = "SELECT \"a b\", t.c * 1.5e3 -- of Alice\n FROM t /* of Bob */ WHERE n = 'it''s' AND x = $name \
                   AND y IN (X'00ff', E'\\n', N'x', 42) AND z = $$text$$";
        assert_eq!(
            masked(sql),
            "SELECT \"a b\", t.c * ? FROM t WHERE n = ? AND x = $name AND y IN (?, ?, ?, ?) AND z = ?"
        );
        assert_eq!(masked("SELECT 'unended"), "");
        let long = masked(&"é, ".repeat(MAX_MASKED_BYTES));
        assert!((MAX_MASKED_BYTES - 2..=MAX_MASKED_BYTES).contains(&long.len()));
    }
}
