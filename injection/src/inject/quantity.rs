//! Kubernetes' notation for amounts of CPU and memory, as far as comparing two of them needs.

use std::str::FromStr;

/// An amount in thousandths. Grammar: `k8s.io/apimachinery/pkg/api/resource`, type `Quantity`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Quantity(f64);

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);
}

impl FromStr for Quantity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let unit = match suffix {
            "m" => 1e-3,
            "" => 1.0,
            "k" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            "T" => 1e12,
            "Ki" => 1024.0,
            "Mi" => 1024_f64.powi(2),
            "Gi" => 1024_f64.powi(3),
            "Ti" => 1024_f64.powi(4),
            exponent => {
                let digits = exponent.strip_prefix(['e', 'E']).ok_or(())?;
                10_f64.powi(digits.parse::<i8>().map_err(|_| ())?.into())
            }
        };
        let number: f64 = number.parse().map_err(|_| ())?;
        Ok(Self(number * unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_an_amount_what_kubernetes_takes_it_for() {
        let value = |text: &str| text.parse::<Quantity>();
        for (text, same) in [("1024Ki", "1Mi"), ("1000m", "1"), ("0.5", "500m"), ("1e3", "1k"), ("2G", "2000M")] {
            assert_eq!(value(text), value(same), "{text}");
        }
        assert!(value("1Gi") > value("1G"));
        for text in ["", "Mi", "1mi", "-1", "1 Mi", "1.2.3", "1e", "NaN", "inf", "1e999"] {
            assert_eq!(value(text), Err(()), "{text}");
        }
    }
}
