//! Checks the header of a page before it is decoded.
//!
//! The definition is that of `PageHeader` in Parquet's Thrift
//! (<https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>).

use dormouse_core::Result;

use crate::thrift::{self, BINARY, I32, I64, Kinds, STRUCT};

/// A page may claim so many bytes, whatever it is compressed to.
const PAGE_BYTES: i64 = 64 << 20;
/// And beyond that so many for each byte of its own.
const PAGE_RATIO: i64 = 16;

/// The longest header of a page that is read, with its statistics.
pub(crate) const HEADER_BYTES: u64 = 1 << 20;

const UNCOMPRESSED: i16 = 2;
const COMPRESSED: i16 = 3;
const DATA: i16 = 5;
const DICTIONARY: i16 = 7;
const DATA_V2: i16 = 8;

const PAGE: &Kinds = &[
    (1, I32),
    (UNCOMPRESSED, I32),
    (COMPRESSED, I32),
    (4, I32),
    (DATA, STRUCT),
    (6, STRUCT),
    (DICTIONARY, STRUCT),
    (DATA_V2, STRUCT),
];

const DATA_FIELDS: &Kinds = &[(1, I32), (2, I32), (3, I32), (4, I32), (5, STRUCT)];
const DICTIONARY_FIELDS: &Kinds = &[(1, I32), (2, I32)];
const DATA_V2_FIELDS: &Kinds = &[
    (1, I32),
    (2, I32),
    (3, I32),
    (4, I32),
    (5, I32),
    (6, I32),
    (8, STRUCT),
];
const STATISTICS: &Kinds = &[
    (1, BINARY),
    (2, BINARY),
    (3, I64),
    (4, I64),
    (5, BINARY),
    (6, BINARY),
];

/// Checks that a page, which begins with its header, does not claim more bytes or values than it may: decoders
/// reserve memory by these numbers, and fill it.
pub(crate) fn check(page: &[u8], most_values: i64) -> Result<(), String> {
    let (mut claimed, mut stored, mut values) = (0_i64, 0_i64, 0_i64);
    thrift::for_each_field_of(&mut &page[..], PAGE, |id, kind, input| {
        match id {
            UNCOMPRESSED => claimed = thrift::take_i32(input)?.into(),
            COMPRESSED => stored = thrift::take_i32(input)?.into(),
            DATA => values = count_values(input, DATA_FIELDS, 5)?.max(values),
            DICTIONARY => values = count_values(input, DICTIONARY_FIELDS, 0)?.max(values),
            DATA_V2 => values = count_values(input, DATA_V2_FIELDS, 8)?.max(values),
            _ => thrift::skip(input, kind)?,
        }
        Ok(())
    })
    .map_err(|reason| format!("the header of a page {reason}"))?;
    let most = PAGE_BYTES.max(stored.saturating_mul(PAGE_RATIO));
    if claimed > most {
        return Err(format!(
            "a page of {stored} bytes claims to be {claimed} bytes; it may be {most}"
        ));
    }
    if values > most_values {
        return Err(format!(
            "a page claims {values} values; it may have {most_values}"
        ));
    }
    Ok(())
}

/// The first field of a kind of page, its number of values.
fn count_values(input: &mut &[u8], kinds: &Kinds, statistics: i16) -> Result<i64, String> {
    let mut values = 0_i64;
    thrift::for_each_field_of(input, kinds, |id, kind, input| match id {
        1 => {
            values = thrift::take_i32(input)?.into();
            Ok(())
        }
        id if id == statistics => {
            thrift::for_each_field_of(input, STATISTICS, |_, kind, input| thrift::skip(input, kind))
        }
        _ => thrift::skip(input, kind),
    })?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data page: its claimed bytes, its own bytes, and its values, each below 64 or in a varint.
    fn header(claimed: &[u8], stored: u8, values: u8) -> Vec<u8> {
        let mut header = vec![0x15, 0, 0x15];
        header.extend(claimed);
        header.extend([0x15, stored * 2, 0x2c, 0x15, values * 2, 0x15, 0, 0, 0]);
        header
    }

    const TWO_GIB: &[u8] = &[0xfe, 0xff, 0xff, 0xff, 0x0f];

    #[test]
    fn a_page_may_claim_what_pages_have() {
        assert_eq!(check(&header(&[40], 20, 5), 5), Ok(()));
    }

    #[test]
    fn a_page_that_claims_more_is_refused() {
        let error = check(&header(TWO_GIB, 20, 5), 5).unwrap_err();
        assert!(
            error.contains("20 bytes claims to be 2147483647 bytes"),
            "{error}"
        );
        let error = check(&header(&[40], 20, 6), 5).unwrap_err();
        assert!(error.contains("claims 6 values; it may have 5"), "{error}");
    }

    #[test]
    fn a_claim_that_is_written_as_another_kind_or_twice_is_refused() {
        let mut long = header(TWO_GIB, 20, 5);
        long[2] = 0x16;
        assert!(check(&long, 5).unwrap_err().contains("field 2 of kind 6"));
        let mut twice = header(&[40], 20, 5);
        twice.pop();
        twice.extend([0x05, 4]);
        twice.extend(TWO_GIB);
        twice.push(0);
        assert!(check(&twice, 5).unwrap_err().contains("field 2 of kind 5"));
    }
}
