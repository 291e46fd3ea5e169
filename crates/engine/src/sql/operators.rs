//! Operators and brackets, planned as functions that refuse to make what is too long.

use std::sync::Arc;

use datafusion::{
    common::DFSchema,
    error::Result,
    functions_nested::{
        concat::{array_append_udf, array_concat_udf, array_prepend_udf},
        make_array::make_array_udf,
        map::map_udf,
    },
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable, Operator, ScalarUDF,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
    },
    sql::sqlparser::ast::BinaryOperator,
};

use super::growth::{bounded, short_enough};

/// Plans `||` and `[…]`.
#[derive(Debug)]
pub(super) struct BoundedOperators;

fn call(function: &Arc<ScalarUDF>, arguments: Vec<Expr>) -> Expr {
    match bounded(function) {
        Some(bounded) => bounded.call(arguments),
        None => function.call(arguments),
    }
}

impl ExprPlanner for BoundedOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        if expr.op != BinaryOperator::StringConcat {
            return Ok(PlannerResult::Original(expr));
        }
        let RawBinaryExpr { left, right, .. } = expr;
        let dimensions = (
            datafusion::common::utils::list_ndims(&left.get_type(schema)?),
            datafusion::common::utils::list_ndims(&right.get_type(schema)?),
        );
        Ok(PlannerResult::Planned(match dimensions {
            (0, 0) => Expr::BinaryExpr(BinaryExpr::new(
                Box::new(short_enough(left)),
                Operator::StringConcat,
                Box::new(short_enough(right)),
            )),
            (of_left, of_right) if of_left == of_right => call(&array_concat_udf(), vec![left, right]),
            (of_left, of_right) if of_left > of_right => call(&array_append_udf(), vec![left, right]),
            _ => call(&array_prepend_udf(), vec![left, right]),
        }))
    }

    fn plan_array_literal(&self, exprs: Vec<Expr>, _schema: &DFSchema) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(call(&make_array_udf(), exprs)))
    }

    fn plan_make_map(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        if !args.len().is_multiple_of(2) {
            return Ok(PlannerResult::Original(args));
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (number, argument) in args.into_iter().enumerate() {
            if number % 2 == 0 {
                keys.push(argument);
            } else {
                values.push(argument);
            }
        }
        let keys = call(&make_array_udf(), keys);
        let values = call(&make_array_udf(), values);
        Ok(PlannerResult::Planned(call(&map_udf(), vec![keys, values])))
    }
}
