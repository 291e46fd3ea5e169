//! Functions that make values much longer than what they are given: how long is estimated before they run, and what is
//! too long refused, since DataFusion does not count what they make.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, OffsetSizeTrait},
    compute::cast,
    datatypes::{
        DataType as ArrowType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
    },
};
use datafusion::{
    common::{
        ScalarValue,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, Volatility,
        expr::ScalarFunction,
        interval_arithmetic::Interval,
        simplify::{ExprSimplifyResult, SimplifyContext},
        sort_properties::{ExprProperties, SortProperties},
    },
};
use dormouse_core::Error;

use super::pieces::written_bytes;

/// How long a value may be that a function makes.
pub(super) const MAX_VALUE_BYTES: u64 = 16 << 20;
/// How long all the values may be that a function makes at a time.
const MAX_BATCH_BYTES: u64 = 128 << 20;
/// How many pairs of letters a function may compare for a value; eight times as many for all values at a time.
const MAX_PAIRS: u64 = 1 << 28;

/// The session's function in a form that refuses what is too long; none for one that makes nothing long.
pub(super) fn bounded(function: &ScalarUDF) -> Option<ScalarUDF> {
    let growth = Growth::of(function.name())?;
    Some(ScalarUDF::new_from_impl(Bounded {
        function: function.clone(),
        growth,
    }))
}

/// How long a value gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Growth {
    /// As its arguments together.
    Sum,
    /// The first argument as often as the second says.
    Repeated,
    /// As the second argument says.
    Padded,
    /// Elements from the first argument to the second.
    Range,
    /// The second argument says how many elements.
    Resized,
    /// The third argument in the place of each second in the first.
    Replaced,
    /// The third argument in the place of whatever matches in the first.
    Matched,
    /// The second argument between the elements of the first.
    Joined,
    /// The first argument between the others.
    Separated,
    /// An element for each letter at most.
    Split,
    /// Not long, but computed from each pair of letters.
    Pairs,
}

impl Growth {
    fn of(function: &str) -> Option<Self> {
        Some(match function {
            "repeat" | "array_repeat" => Self::Repeated,
            "lpad" | "rpad" => Self::Padded,
            "range" | "generate_series" => Self::Range,
            "array_resize" => Self::Resized,
            "replace" | "array_replace" | "array_replace_n" | "array_replace_all" => Self::Replaced,
            "regexp_replace" => Self::Matched,
            "array_to_string" => Self::Joined,
            "string_to_array" => Self::Split,
            "levenshtein" => Self::Pairs,
            "concat_ws" => Self::Separated,
            "concat" | "translate" | "overlay" | "make_array" | "array_append" | "array_prepend"
            | "array_concat" | "array_union" | "arrays_zip" | "struct" | "named_struct" | "map"
            | "coalesce" | "nvl" | "nvl2" | "greatest" | "least" | "to_char" | "encode" | "regexp_match" => {
                Self::Sum
            }
            _ => return None,
        })
    }

    /// How long each value gets, for each row.
    fn estimate(self, args: &[ColumnarValue], rows: usize) -> Result<(u64, u64)> {
        let sizes: Vec<Sizes> = args.iter().map(sizes).collect::<Result<_>>()?;
        let at = |argument: usize, row: usize| sizes.get(argument).map_or(0, |sizes| sizes.get(row));
        let counts = match self {
            Self::Repeated | Self::Padded | Self::Resized => args.get(1).map(counts).transpose()?,
            Self::Range => Some(lengths_of_ranges(args)?),
            _ => None,
        };
        let count = |row: usize| counts.as_ref().map_or(0, |counts| counts.get(row));
        let length = |row: usize| match self {
            Self::Sum => {
                let all = sizes.iter().map(|sizes| sizes.get(row));
                all.fold(0, u64::saturating_add)
            }
            Self::Repeated => at(0, row).max(1).saturating_mul(count(row)),
            Self::Padded => count(row),
            Self::Range => count(row).saturating_mul(8),
            Self::Resized => {
                let more = at(2, row).saturating_add(8).saturating_mul(count(row));
                at(0, row).saturating_add(more)
            }
            Self::Replaced => {
                let times = (at(0, row) / at(1, row).max(1)).saturating_add(1);
                at(0, row).saturating_add(times.saturating_mul(at(2, row)))
            }
            Self::Matched => {
                let times = at(0, row).saturating_add(1);
                at(0, row).saturating_add(times.saturating_mul(at(2, row)))
            }
            Self::Separated => {
                let all = (1..sizes.len()).map(|argument| at(argument, row).saturating_add(at(0, row)));
                all.fold(0, u64::saturating_add)
            }
            Self::Joined => at(0, row).saturating_mul(at(1, row).saturating_add(1)),
            Self::Split => at(0, row).saturating_mul(17),
            Self::Pairs => at(0, row).saturating_mul(at(1, row)),
        };
        let rows = match args.iter().any(|arg| matches!(arg, ColumnarValue::Array(_))) {
            true => rows,
            false => rows.min(1),
        };
        let lengths = (0..rows).map(length);
        Ok(lengths.fold((0, 0), |(most, all): (u64, u64), one| {
            (most.max(one), all.saturating_add(one))
        }))
    }
}

fn too_long(function: &str) -> DataFusionError {
    let most = MAX_VALUE_BYTES >> 20;
    external(format!("{function} makes a value of over {most} MiB"))
}

fn too_many(function: &str) -> DataFusionError {
    let most = MAX_BATCH_BYTES >> 20;
    external(format!("{function} makes over {most} MiB of values at a time"))
}

fn external(text: String) -> DataFusionError {
    DataFusionError::External(Box::new(Error::invalid(text)))
}

/// A function that refuses to make what is too long.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    function: ScalarUDF,
    growth: Growth,
}

impl Bounded {
    fn inner(&self) -> &dyn ScalarUDFImpl {
        self.function.inner().as_ref()
    }

    fn check(&self, most: u64, all: u64) -> Result<()> {
        match self.growth {
            Growth::Pairs if most > MAX_PAIRS || all > 8 * MAX_PAIRS => Err(external(format!(
                "{} takes too long for texts of such length",
                self.name()
            ))),
            Growth::Pairs => Ok(()),
            _ if most > MAX_VALUE_BYTES => Err(too_long(self.name())),
            _ if all > MAX_BATCH_BYTES => Err(too_many(self.name())),
            _ => Ok(()),
        }
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner().name()
    }

    fn aliases(&self) -> &[String] {
        self.inner().aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner().signature()
    }

    fn return_type(&self, arg_types: &[ArrowType]) -> Result<ArrowType> {
        self.inner().return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner().return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner().is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (most, all) = self.growth.estimate(&args.args, args.number_rows)?;
        self.check(most, all)?;
        let made = self.inner().invoke_with_args(args)?;
        // Some estimates are short of what is made by a small factor.
        let bytes = match &made {
            ColumnarValue::Array(made) => written_bytes(made),
            ColumnarValue::Scalar(_) => 0,
        };
        if bytes > 4 * MAX_BATCH_BYTES {
            return Err(too_many(self.name()));
        }
        Ok(made)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let simplified = self.inner().simplify(args, info)?;
        let ExprSimplifyResult::Simplified(expr) = simplified else {
            return Ok(simplified);
        };
        // What it is simplified to, DataFusion has without bounds.
        let bounded = expr.transform_up(|expr| match expr {
            Expr::ScalarFunction(mut call) => {
                let again = bounded(&call.func).filter(|_| !call.func.inner().is::<Self>());
                let changed = again.map(|again| call.func = Arc::new(again)).is_some();
                Ok(Transformed::new(
                    Expr::ScalarFunction(call),
                    changed,
                    TreeNodeRecursion::Continue,
                ))
            }
            expr => Ok(Transformed::no(expr)),
        })?;
        Ok(ExprSimplifyResult::Simplified(bounded.data))
    }

    fn short_circuits(&self) -> bool {
        self.inner().short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner().conditional_arguments(args)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.inner().evaluate_bounds(input)
    }

    fn propagate_constraints(
        &self,
        interval: &Interval,
        inputs: &[&Interval],
    ) -> Result<Option<Vec<Interval>>> {
        self.inner().propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner().preserves_lex_ordering(inputs)
    }

    fn coerce_types(&self, arg_types: &[ArrowType]) -> Result<Vec<ArrowType>> {
        self.inner().coerce_types(arg_types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner().documentation()
    }
}

/// Its argument, when that is short enough that two of its values may be put together.
pub(super) fn short_enough(argument: Expr) -> Expr {
    if matches!(argument, Expr::Literal(..)) {
        return argument;
    }
    let function = ScalarUDF::new_from_impl(ShortEnough {
        signature: Signature::any(1, Volatility::Immutable),
    });
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![argument]))
}

/// A function that answers its argument, and refuses a long one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ShortEnough {
    signature: Signature,
}

impl ScalarUDFImpl for ShortEnough {
    fn name(&self) -> &str {
        "||"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args
            .first()
            .map(|argument| argument.schema_name().to_string())
            .unwrap_or_default())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[ArrowType]) -> Result<ArrowType> {
        Ok(arg_types.first().cloned().unwrap_or(ArrowType::Null))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = args.arg_fields.first().cloned();
        field.ok_or_else(|| external("|| needs an argument".to_owned()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (most, all) = Growth::Sum.estimate(&args.args, args.number_rows)?;
        if most > MAX_VALUE_BYTES / 2 {
            return Err(too_long(self.name()));
        }
        if all > MAX_BATCH_BYTES / 2 {
            return Err(too_many(self.name()));
        }
        let argument = args.args.into_iter().next();
        argument.ok_or_else(|| external("|| needs an argument".to_owned()))
    }
}

/// A number for each row.
enum Sizes {
    One(u64),
    Each(Vec<u64>),
}

impl Sizes {
    fn get(&self, row: usize) -> u64 {
        match self {
            Self::One(size) => *size,
            Self::Each(sizes) => sizes.get(row).copied().unwrap_or(0),
        }
    }

    /// Those of an argument, from those of its array.
    fn of(argument: &ColumnarValue, sizes: impl Fn(&ArrayRef) -> Result<Vec<u64>>) -> Result<Self> {
        match argument {
            ColumnarValue::Array(array) => Ok(Self::Each(sizes(array)?)),
            ColumnarValue::Scalar(scalar) => {
                let sizes = sizes(&scalar.to_array()?)?;
                Ok(Self::One(sizes.first().copied().unwrap_or(0)))
            }
        }
    }
}

/// How long the values of an argument are.
fn sizes(argument: &ColumnarValue) -> Result<Sizes> {
    Sizes::of(argument, |array| {
        Ok(match array.data_type() {
            ArrowType::Utf8 => between(array.as_string::<i32>().value_offsets(), 1),
            ArrowType::LargeUtf8 => between(array.as_string::<i64>().value_offsets(), 1),
            ArrowType::Binary => between(array.as_binary::<i32>().value_offsets(), 1),
            ArrowType::LargeBinary => between(array.as_binary::<i64>().value_offsets(), 1),
            // The low half of a view is the length.
            ArrowType::Utf8View => lengths(array.as_string_view().views()),
            ArrowType::BinaryView => lengths(array.as_binary_view().views()),
            ArrowType::List(_) => {
                let list = array.as_list::<i32>();
                between(list.value_offsets(), each(list.values()))
            }
            ArrowType::LargeList(_) => {
                let list = array.as_list::<i64>();
                between(list.value_offsets(), each(list.values()))
            }
            _ => vec![each(array); array.len()],
        })
    })
}

fn lengths(views: &[u128]) -> Vec<u64> {
    views.iter().map(|view| u64::from(*view as u32)).collect()
}

fn between<O: OffsetSizeTrait>(offsets: &[O], each: u64) -> Vec<u64> {
    let length = |pair: &[O]| (pair[1].as_usize() - pair[0].as_usize()) as u64;
    offsets
        .windows(2)
        .map(|pair| length(pair).saturating_mul(each))
        .collect()
}

/// How long one value of an array is, about.
fn each(array: &ArrayRef) -> u64 {
    match array.len() as u64 {
        0 => 0,
        rows => written_bytes(array).div_ceil(rows),
    }
}

/// How often an argument says; what is no number is refused elsewhere.
fn counts(argument: &ColumnarValue) -> Result<Sizes> {
    Sizes::of(argument, |array| {
        Ok(whole(array, &ArrowType::Int64)?.unwrap_or_default())
    })
}

/// The values of an array as numbers that are not negative; none for what is no number.
fn whole(array: &ArrayRef, through: &ArrowType) -> Result<Option<Vec<u64>>> {
    let numbers = numbers(array, through)?;
    Ok(numbers.map(|numbers| numbers.into_iter().map(|number| number.max(0) as u64).collect()))
}

/// The values of an array as numbers, zero for null; none for what is no number.
fn numbers(array: &ArrayRef, through: &ArrowType) -> Result<Option<Vec<i64>>> {
    let Ok(array) = cast(array, through).and_then(|array| cast(&array, &ArrowType::Int64)) else {
        return Ok(None);
    };
    let array = array.as_primitive::<Int64Type>();
    let numbers = array.iter().map(Option::unwrap_or_default);
    Ok(Some(numbers.collect()))
}

/// How many elements the ranges have that some arguments say: from, to and step, or to alone.
fn lengths_of_ranges(args: &[ColumnarValue]) -> Result<Sizes> {
    let arrays = ColumnarValue::values_to_arrays(args)?;
    let is_time = arrays.first().is_some_and(|array| {
        matches!(
            array.data_type(),
            ArrowType::Date32 | ArrowType::Date64 | ArrowType::Timestamp(..)
        )
    });
    let through = match is_time {
        true => ArrowType::Timestamp(TimeUnit::Nanosecond, None),
        false => ArrowType::Int64,
    };
    let column = |number: usize| match arrays.get(number) {
        Some(array) => numbers(array, &through),
        None => Ok(None),
    };
    let steps = match arrays.get(2) {
        Some(array) if is_time => nanoseconds(array)?,
        Some(array) => numbers(array, &ArrowType::Int64)?,
        None => None,
    };
    let (first, second) = (column(0)?.unwrap_or_default(), column(1)?);
    let rows = first.len();
    let length = |row: usize| {
        let (from, to) = match &second {
            Some(second) => (first[row], second.get(row).copied().unwrap_or(0)),
            None => (0, first[row]),
        };
        let step = steps
            .as_ref()
            .and_then(|steps| steps.get(row))
            .copied()
            .unwrap_or(1);
        if (to > from) != (step > 0) {
            return 1;
        }
        (from.abs_diff(to) / step.unsigned_abs().max(1)).saturating_add(1)
    };
    Ok(Sizes::Each((0..rows).map(length).collect()))
}

/// Intervals in nanoseconds, a month as its shortest.
fn nanoseconds(array: &ArrayRef) -> Result<Option<Vec<i64>>> {
    const DAY: i64 = 86_400_000_000_000;
    let Ok(array) = cast(array, &ArrowType::Interval(IntervalUnit::MonthDayNano)) else {
        return Ok(None);
    };
    let array = array.as_primitive::<IntervalMonthDayNanoType>();
    let steps = array.iter().map(|step| {
        let Some(step) = step else { return 0 };
        let days = i64::from(step.months)
            .saturating_mul(28)
            .saturating_add(i64::from(step.days));
        days.saturating_mul(DAY).saturating_add(step.nanoseconds)
    });
    Ok(Some(steps.collect()))
}

/// How long the longest of some constants is.
pub(super) fn constant_bytes(constant: &ScalarValue) -> u64 {
    constant.to_array().map_or(0, |array| written_bytes(&array))
}
