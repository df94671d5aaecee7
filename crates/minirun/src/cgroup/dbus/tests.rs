use super::*;

/// A reply as dbus-daemon sent it: destination, reply serial, signature, sender; an object path.
fn reply() -> Vec<u8> {
    let mut message = Writer(vec![b'l', METHOD_RETURN, 1, 1]);
    let mut body = Writer::default();
    body.string("/org/freedesktop/systemd1/job/7");
    let body = body.into_bytes();
    message.u32(u32::try_from(body.len()).unwrap()).u32(9);
    message.array(8, |fields| {
        fields.0.push(DESTINATION);
        fields.signature("s").string(":1.7");
        fields.align(8).0.push(REPLY_SERIAL);
        fields.signature("u").u32(3);
        fields.align(8).0.push(SIGNATURE);
        fields.signature("g").signature("o");
    });
    message.align(8).0.extend(body);
    message.into_bytes()
}

#[test]
fn a_call_is_marshalled_as_the_specification_says() {
    let callee = Callee { destination: "a.b", path: "/c", interface: "d.e" };
    let mut body = Writer::default();
    body.string("f").bool(true).array(8, |_| {});
    let bytes = method_call(2, callee, "G", "sb", &body.into_bytes());
    let want = b"l\x01\x00\x01\x10\x00\x00\x00\x02\x00\x00\x00\x48\x00\x00\x00\
        \x01\x01o\0\x02\0\0\0/c\0\0\0\0\0\0\x02\x01s\0\x03\0\0\0d.e\0\0\0\0\0\
        \x03\x01s\0\x01\0\0\0G\0\0\0\0\0\0\0\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0\
        \x08\x01g\0\x02sb\0\
        \x01\0\0\0f\0\0\0\x01\0\0\0\0\0\0\0";
    assert_eq!(bytes.escape_ascii().to_string(), want.escape_ascii().to_string());
}

#[test]
fn a_reply_is_read_and_no_part_of_one_is_taken_for_it() {
    let whole = reply();
    assert_eq!(rest_length(&whole[..FIXED_HEADER_BYTES]), Some(whole.len() - 16));
    let message = parse(&whole).unwrap();
    assert_eq!((message.kind, message.reply_serial), (METHOD_RETURN, Some(3)));
    assert_eq!(message.strings(), Some(["/org/freedesktop/systemd1/job/7"]));
    for length in 0..whole.len() {
        let cut = parse(&whole[..length]);
        assert!(cut.is_none_or(|m| m.strings::<1>().is_none()), "{length} bytes");
    }
    // Whatever one byte is changed to, nothing panics.
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let _ = rest_length(&bytes[..FIXED_HEADER_BYTES]);
            let _ = parse(&bytes).map(|m| m.strings::<2>().is_some());
        }
    }
}

#[test]
fn a_message_without_end_is_refused() {
    let mut header = reply();
    header[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(rest_length(&header[..FIXED_HEADER_BYTES]), None);
}
