//! Quantities of CPU and memory.
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>

use std::str::FromStr;

/// A quantity in the form in which the API server stores it, so that a stored pod compares equal to
/// current injection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quantity {
    text: String,
    /// In thousandths of a core or of a byte.
    thousandths: u128,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected a quantity in its shortest form, such as 100m or 2 for cpu, 64Mi or 1Gi for memory"
)]
pub struct NotAQuantity;

impl Quantity {
    pub(super) fn of_thousandths(thousandths: u16) -> Self {
        Self { text: format!("{thousandths}m"), thousandths: thousandths.into() }
    }

    pub(super) fn of_mebibytes(mebibytes: u16) -> Self {
        Self { text: format!("{mebibytes}Mi"), thousandths: (u128::from(mebibytes) * 1000) << 20 }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the quantity in thousandths of a core or of a byte.
    pub fn thousandths(&self) -> u128 {
        self.thousandths
    }
}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| NotAQuantity)?;
        // This many of the unit make one of the next unit.
        let next = match &s[digits.len()..] {
            "m" | "" => 1000,
            "Ki" | "Mi" | "Gi" => 1024,
            _ => return Err(NotAQuantity),
        };
        if digits.starts_with(['0', '+']) || number.is_multiple_of(next) {
            return Err(NotAQuantity);
        }
        let thousandths = thousandths(s).ok_or(NotAQuantity)?;
        Ok(Self { text: s.to_owned(), thousandths })
    }
}

/// Returns a quantity of any form in thousandths of a core or of a byte, rounded up. None: `text` is
/// not a quantity.
pub(crate) fn thousandths(text: &str) -> Option<u128> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !is_of_a_number(c)).unwrap_or(text.len()));
    let (numerator, denominator) = scale(unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits.checked_mul(numerator)?.checked_mul(1000)?;
    let parts = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some(scaled.div_ceil(parts.checked_mul(denominator)?))
}

fn is_of_a_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

fn scale(unit: &str) -> Option<(u128, u128)> {
    if let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) {
        return Some(*scale);
    }
    let exponent: i32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_u128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

const UNITS: [(&str, (u128, u128)); 16] = [
    ("", (1, 1)),
    ("n", (1, 1_000_000_000)),
    ("u", (1, 1_000_000)),
    ("m", (1, 1000)),
    ("k", (1000, 1)),
    ("M", (1_000_000, 1)),
    ("G", (1_000_000_000, 1)),
    ("T", (1_000_000_000_000, 1)),
    ("P", (1_000_000_000_000_000, 1)),
    ("E", (1_000_000_000_000_000_000, 1)),
    ("Ki", (1 << 10, 1)),
    ("Mi", (1 << 20, 1)),
    ("Gi", (1 << 30, 1)),
    ("Ti", (1 << 40, 1)),
    ("Pi", (1 << 50, 1)),
    ("Ei", (1 << 60, 1)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_has_one_form() {
        for text in ["10m", "1", "1500m", "32Mi", "1Gi", "1025Ki"] {
            assert!(text.parse::<Quantity>().is_ok(), "{text:?}");
        }
        for text in
            ["", "0", "0.1", "1000m", "1024Mi", "lots", "-1", "+1", "01", "1 Mi", "1M", "1e3"]
        {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
        assert!(
            "2".parse::<Quantity>().unwrap().thousandths
                > "1500m".parse::<Quantity>().unwrap().thousandths
        );
    }

    #[test]
    fn every_form_of_a_quantity_is_parsed() {
        let cases = [
            ("0", Some(0)),
            ("10m", Some(10)),
            ("0.1", Some(100)),
            ("1.5", Some(1500)),
            ("100n", Some(1)),
            ("32Mi", Some(32 * 1024 * 1024 * 1000)),
            ("1.5Gi", Some(1536 * 1024 * 1024 * 1000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("5E-1", Some(500)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("", None),
            ("-1", None),
            ("1 Mi", None),
            ("lots", None),
            ("99999999999999999999999999999999999999999", None),
        ];
        for (text, want) in cases {
            assert_eq!(thousandths(text), want, "{text:?}");
        }
    }
}
