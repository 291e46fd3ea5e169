//! Decimal literals at the scale of what they are added to.
//!
//! Decimals of unlike scales are brought to one scale for each row, by multiplications that are checked for overflow: of
//! `1 - discount` those take most of the time. A literal with as many zeros behind its point as the other operand has
//! digits there is the same number, makes the same type of sum, and is multiplied once.

use datafusion::{
    arrow::datatypes::DataType,
    common::{
        DFSchema, Result, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, expr_rewriter::NamePreserver,
        utils::merge_schema,
    },
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule},
};

/// The most digits of a decimal of 128 bits.
const MOST_DIGITS: u8 = 38;

/// Gives literals the scale of what they are added to, or subtracted from.
#[derive(Debug)]
pub(super) struct AlignedDecimals;

impl OptimizerRule for AlignedDecimals {
    fn name(&self) -> &'static str {
        "align_decimals"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let schema = match &plan {
            // Its filters may name columns that it does not give.
            LogicalPlan::TableScan(scan) => {
                DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?
            }
            _ => merge_schema(&plan.inputs()),
        };
        let names = NamePreserver::new(&plan);
        let mut aligned = |expr: Expr| {
            let name = names.save(&expr);
            let aligned = expr.transform_up(|expr| Ok(align(expr, &schema)))?;
            Ok(aligned.update_data(|expr| name.restore(expr)))
        };
        plan.map_expressions(|expr| match expr {
            // Those have names within.
            Expr::GroupingSet(_) => expr.map_children(&mut aligned),
            _ => aligned(expr),
        })
    }
}

fn align(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let Expr::BinaryExpr(sum) = &expr else {
        return Transformed::no(expr);
    };
    if !matches!(sum.op, Operator::Plus | Operator::Minus) {
        return Transformed::no(expr);
    }
    let aligned = |literal: &Expr, other: &Expr| scaled(literal, &other.get_type(schema).ok()?);
    let (left, right) = (&sum.left, &sum.right);
    let (left, right) = match (aligned(left, right), aligned(right, left)) {
        (Some(literal), _) => (Box::new(literal), right.clone()),
        (None, Some(literal)) => (left.clone(), Box::new(literal)),
        (None, None) => return Transformed::no(expr),
    };
    Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left, sum.op, right)))
}

/// The same number at the larger scale of `other`, with as many digits before its point as it may have had.
fn scaled(literal: &Expr, other: &DataType) -> Option<Expr> {
    let Expr::Literal(ScalarValue::Decimal128(Some(value), precision, scale), metadata) = literal else {
        return None;
    };
    let DataType::Decimal128(_, wanted) = other else {
        return None;
    };
    let more = u8::try_from(wanted.checked_sub(*scale)?)
        .ok()
        .filter(|more| *more > 0)?;
    let precision = precision
        .checked_add(more)
        .filter(|digits| *digits <= MOST_DIGITS)?;
    let value = value.checked_mul(10_i128.checked_pow(more.into())?)?;
    let value = ScalarValue::Decimal128(Some(value), precision, *wanted);
    Some(Expr::Literal(value, metadata.clone()))
}
