//! Quantities of CPU and memory, in every form that Kubernetes accepts.

/// Returns the quantity in thousandths of a core or of a byte, rounded up. None if `text` is not a
/// quantity.
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
pub(super) fn thousandths(text: &str) -> Option<u128> {
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
