//! Who a verified client certificate is for, as one text per subject.

use std::{fmt::Write as _, sync::Arc};

use rustls::pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::ToDer as _,
    prelude::{FromDer as _, X509Certificate},
    x509::{AttributeTypeAndValue, X509Name},
};

/// The subject of the client certificate that was verified on this connection, as RFC 4514 writes it: an extension of
/// every request on it, which no client can make. A certificate with an empty subject gives none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ClientSubject(pub Arc<str>);

impl ClientSubject {
    /// Of a certificate that was verified.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<ClientSubject> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let name = written(certificate.subject())?;
        (!name.is_empty()).then(|| ClientSubject(name.into()))
    }
}

/// RFC 4514 section 3: the names of the attributes that every reader knows.
const NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// RFC 4514 section 2.1: the last of the sequence comes first. `None` where it cannot be written without loss.
fn written(name: &X509Name<'_>) -> Option<String> {
    let relative: Vec<_> = name.iter().collect();
    let parts = relative.into_iter().rev().map(|relative| {
        let attributes = relative.iter().map(attribute).collect::<Option<Vec<_>>>()?;
        Some(attributes.join("+"))
    });
    Some(parts.collect::<Option<Vec<_>>>()?.join(","))
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let oid = attribute.attr_type().to_id_string();
    let known = NAMES.iter().find(|(known, _)| *known == oid).map(|(_, name)| *name);
    if let (Some(name), Ok(text)) = (known, attribute.as_str()) {
        return Some(format!("{name}={}", escaped(text)));
    }
    // Section 2.4: without a name or a text, the bytes of the encoding.
    let mut out = format!("{}=#", known.unwrap_or(&oid));
    for byte in attribute.attr_value().to_der_vec().ok()? {
        let _ = write!(out, "{byte:02X}");
    }
    Some(out)
}

/// Section 2.4: without it, `a,O=b` as a name would be taken for two.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', c]),
            '#' if at == 0 => out.push_str("\\#"),
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(out, "\\{byte:02X}");
                }
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn check(attributes: &[(DnType, &str)], subject: Option<&str>) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (name, value) in attributes {
            params.distinguished_name.push(name.clone(), DnValue::Utf8String((*value).to_owned()));
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let found = ClientSubject::of(certificate.der());
        assert_eq!(found.as_ref().map(|found| &*found.0), subject);
    }

    #[test]
    fn a_subject_is_written_as_rfc_4514_says() {
        let country = (DnType::CountryName, "DE");
        check(&[country, (DnType::OrganizationName, "A"), (DnType::CommonName, "b")], Some("CN=b,O=A,C=DE"));
        check(&[(DnType::CustomDnType(vec![1, 2, 3]), "x")], Some("1.2.3=#0C0178"));
        check(&[], None);
    }

    #[test]
    fn no_text_in_a_subject_reads_as_another_subject() {
        check(&[(DnType::CommonName, "a,O=b")], Some("CN=a\\,O=b"));
        check(&[(DnType::CommonName, "a+O=b\\")], Some("CN=a\\+O=b\\\\"));
        check(&[(DnType::CommonName, " #a ")], Some("CN=\\ #a\\ "));
        check(&[(DnType::CommonName, "#0C0178")], Some("CN=\\#0C0178"));
        check(&[(DnType::CommonName, "a\r\nb\0")], Some("CN=a\\0D\\0Ab\\00"));
    }
}
