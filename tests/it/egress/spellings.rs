//! Hosts of URLs that lead, or are meant to lead, where nothing is POSTed to.

/// Addresses, in every way in which the host of a URL can spell them, between spaces.
pub const ADDRESSES: &[&str] = &[
    // 127.0.0.1 and its network: short, decimal, octal, hexadecimal, mixed, with more zeros, with a full stop
    // at the end.
    "127.0.0.1 127.0.0.1. 127.1 127.1. 127.0.1 127.000.000.001 127.00.00.01 127.0x0.0.01 127.0.0.0x1 \
     127.16777215 127.255.255.255 2130706433 2130706433. 0x7f000001 0x7f000001. 0X7F000001 \
     0x00000000007f000001 0x7f.1 0x7F.0.1 0x7f.0.0.1 0x7f.0x0.0x0.0x1 0x7f.0x.0x.1 017700000001 0177.1 \
     0177.0.1 0177.0.0.1 0177.0.0.01 00000177.0.0.1",
    // The same in percent signs, and in characters that IDNA takes for digits, letters and full stops, or
    // drops.
    "%31%32%37.0.0.1 127%2e0%2E0%2e1 %30x7f000001 １２７.0.0.1 １２７．０．０．１ ０ｘ７ｆ０００００１ 127。0。0。1 127｡0｡0｡1 \
     ①②⑦.⓪.⓪.① ¹²⁷.⁰.⁰.¹ 𝟏𝟐𝟕.𝟎.𝟎.𝟏 127.0.0.\u{ad}1 127.0.0.1\u{200b}",
    // No address, and this network.
    "0.0.0.0 0.0.0.0. 0 00 0x 0x0 0.0 ０ 0.1.2.3",
    // Private networks.
    "10.0.0.1 10.1 167772161 0xa000001 0xa.0.0.1 012.0.0.1 10.255.255.255 172.16.0.1 2886729729 \
     0xac.0x10.0.1 172.31.255.255 192.168.0.1 192.168.1 3232235521 0xc0a80001 0300.0250.0.1",
    // The local link, and the metadata of clouds.
    "169.254.0.1 169.254.169.254 169.254.169.254. 2852039166 0xa9fea9fe 0251.0376.0251.0376 \
     169.254.43518 169.16689662 ①⑥⑨.②⑤④.①⑥⑨.②⑤④ 169.254.170.2 100.100.100.200 1684301000 168.63.129.16 \
     2822734096 192.0.0.192",
    // Other parts of IPv4 that are not public.
    "100.64.0.1 100.127.255.254 192.0.0.1 192.0.2.1 198.51.100.7 203.0.113.9 192.31.196.1 192.52.193.1 \
     192.88.99.1 192.175.48.1 198.18.0.1 198.19.255.254 224.0.0.1 0xe0000001 239.255.255.250 240.0.0.1 \
     255.255.255.255 4294967295 0xffffffff 037777777777",
    // IPv6: loopback and no address.
    "[::1] [0:0:0:0:0:0:0:1] [0000:0000:0000:0000:0000:0000:0000:0001] [0::1] [::0001] [::0.0.0.1] [::] \
     [::0] [0:0:0:0:0:0:0:0] [::0.0.0.0]",
    // IPv4 in IPv6: mapped, compatible, translated.
    "[::ffff:127.0.0.1] [::FFFF:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:7f00:0001] [::ffff:0.0.0.0] \
     [::ffff:10.0.0.1] [::ffff:192.168.0.1] [::ffff:100.64.0.1] [::ffff:169.254.169.254] \
     [::ffff:a9fe:a9fe] [::ffff:168.63.129.16] [::127.0.0.1] [::7f00:1] [::10.0.0.1] \
     [::169.254.169.254] [::8.8.8.8] [::ffff:0:127.0.0.1]",
    // NAT64, 6to4, Teredo, ISATAP.
    "[64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:FF9B::192.168.0.1] [64:ff9b::10.0.0.1] \
     [64:ff9b::a9fe:a9fe] [64:ff9b::8.8.8.8] [64:ff9b:1::7f00:1] [64:ff9b:1:fffe::10.0.0.1] \
     [2002:7f00:1::] [2002:7f00:1::1] [2002:a00:1::1] [2002:c0a8:1::1] [2002:a9fe:a9fe::] [2001::1] \
     [2001:0:7f00:1::] [2001:0:808:808:0:0:80ff:fffe] [2001:0000:4136:e378:8000:63bf:3fff:fdd2] \
     [2a00:1450::5efe:127.0.0.1] [2a00:1450::200:5efe:7f00:1] [fe80::5efe:10.0.0.1]",
    // Other parts of IPv6 that are not public.
    "[fe80::1] [FE80::1] [febf::1] [fec0::1] [fc00::1] [fd00::1] [FD12:3456:789A::1] \
     [fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff] [fd00:ec2::254] [fd20:ce::254] [ff02::1] [FF05::2] \
     [ff0e::1] [100::1] [100:0:0:1::1] [2001:2::1] [2001:3::1] [2001:10::1] [2001:20::1] [2001:db8::1] \
     [2001:DB8:0:0:0:0:0:1] [3fff::1] [3fff:fff::1] [2620:4f:8000::1] [4000::1] [5f00::1] [8000::1] \
     [e000::1]",
    // Behind credentials, which look like another host.
    "user@127.0.0.1 user:password@127.0.0.1 example.com@127.0.0.1 example.com:80@127.0.0.1 user@[::1] \
     example.com@①②⑦.0.0.1",
];

/// Hosts that no policy lets through: empty user info, zones, numbers that are no address, and others on which
/// parsers disagree.
pub const MALFORMED: &[&str] = &[
    "@127.0.0.1",
    ":@127.0.0.1",
    "example.com%40127.0.0.1",
    "127.0.0.1#@example.com",
    "127.0.0.1\\@example.com",
    "127.0.0.1%00.example.com",
    "127.0.0.1%2f.example.com",
    "127.0.0.1%0d%0aexample.com",
    "127.0.0.1 ",
    " 127.0.0.1",
    "127.0.0.1\t",
    "127.0.\n0.1",
    "[::1%lo]",
    "[::1%25lo]",
    "[::1%1]",
    "[fe80::1%lo]",
    "[fe80::1%25lo]",
    "[fe80::1%25eth0]",
    "fe80::1%25lo",
    "::1",
    "[::1",
    "[]",
    "[127.0.0.1]",
    "[::ffff:127.1]",
    "[::ffff:0x7f.0.0.1]",
    "[::ffff:0177.0.0.1]",
    "[::1.]",
    "[:::1]",
    "127.0.0.256",
    "127.0.0.08",
    "127.0.0.1.1",
    "127..1",
    ".127.0.0.1",
    "256.0.0.1",
    "0x100.0.0.1",
    "4294967296",
    "0x100000000",
    "040000000000",
    "",
];

/// Names that every system resolves to itself without asking anybody, between spaces.
pub const NAMES: &[&str] =
    &["localhost LOCALHOST LocalHost %6cocalhost ｌｏｃａｌｈｏｓｔ ⓛⓞⓒⓐⓛⓗⓞⓢⓣ local\u{ad}host"];
