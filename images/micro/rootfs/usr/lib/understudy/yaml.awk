# Flattens the YAML that cloud seeds are written in (block style, as PyYAML's safe_dump makes it, and flow sequences of scalars)
# into lines PATH<TAB>VALUE, such as `ethernets/eth0/addresses/0<TAB>10.0.2.15/24`. In values, newline is \n and backslash \\.
# Anchors, tags, nested flow mappings and escapes by number (\xE9) are not understood.

{ sub(/\r$/, ""); lines[NR] = $0 }

END {
    last = NR
    at = 1
    skip_blank()
    if (at <= last && lines[at] ~ /^---/) { at++; skip_blank() }
    if (at <= last) parse_node("", indent_of(at))
}

function indent_of(n) { match(lines[n], /^ */); return RLENGTH }

function skip_blank() { while (at <= last && lines[at] ~ /^ *(#.*)?$/) at++ }

function join_path(path, name) { return path == "" ? name : path "/" name }

function emit(path, value) {
    gsub(/\\/, "\\\\", value)
    gsub(/\n/, "\\n", value)
    print path "\t" value
}

function parse_node(path, indent) {
    if (substr(lines[at], indent + 1) ~ /^-( |$)/) parse_sequence(path, indent)
    else if (key_length(substr(lines[at], indent + 1))) parse_mapping(path, indent)
    else parse_scalar(path, substr(lines[at], indent + 1), indent - 1)
}

# Length of `key:` at the start of text, 0 when there is none.
function key_length(text) {
    if (match(text, /^('[^']*'|"[^"]*"|[^ '"#\[{&*!|>%@-][^#:]*(:[^ #:][^#:]*)*):( |$)/)) {
        return substr(text, RLENGTH, 1) == ":" ? RLENGTH : RLENGTH - 1
    }
    return 0
}

function parse_sequence(path, indent,    rest, item, inner) {
    for (item = 0; at <= last; item++) {
        skip_blank()
        if (at > last || indent_of(at) != indent || substr(lines[at], indent + 1) !~ /^-( |$)/) return
        rest = substr(lines[at], indent + 2)
        match(rest, /^ */)
        inner = indent + 1 + RLENGTH
        rest = substr(rest, RLENGTH + 1)
        if (rest == "" || rest ~ /^#/) {
            at++
            skip_blank()
            if (at <= last && indent_of(at) > indent) parse_node(join_path(path, item), indent_of(at))
            else emit(join_path(path, item), "")
        } else if (rest ~ /^- / || key_length(rest)) {
            # A collection that begins on the dash's own line: as if the dash were a space.
            lines[at] = sprintf("%" inner "s", "") rest
            parse_node(join_path(path, item), inner)
        } else parse_scalar(join_path(path, item), rest, indent)
    }
}

function parse_mapping(path, indent,    text, length_, key, rest) {
    while (at <= last) {
        skip_blank()
        if (at > last || indent_of(at) != indent) return
        text = substr(lines[at], indent + 1)
        length_ = key_length(text)
        if (!length_) return
        key = substr(text, 1, length_ - 1)
        if (key ~ /^['"]/) key = substr(key, 2, length(key) - 2)
        rest = substr(text, length_ + 1)
        sub(/^ +/, "", rest)
        if (rest == "" || rest ~ /^#/) {
            at++
            skip_blank()
            # A sequence may stand at the same depth as the key it belongs to.
            if (at <= last && (indent_of(at) > indent || (indent_of(at) == indent && substr(lines[at], indent + 1) ~ /^-( |$)/)))
                parse_node(join_path(path, key), indent_of(at))
            else emit(join_path(path, key), "")
        } else parse_scalar(join_path(path, key), rest, indent)
    }
}

# text begins on line `at`; what follows deeper than indent continues it.
function parse_scalar(path, text, indent,    first) {
    first = substr(text, 1, 1)
    if (first == "|" || first == ">") parse_literal(path, text, indent)
    else if (first == "'" || first == "\"") parse_quoted(path, text, first)
    else {
        at++
        while (at <= last && lines[at] !~ /^ *$/ && indent_of(at) > indent) {
            match(lines[at], /^ */)
            text = text " " substr(lines[at], RLENGTH + 1)
            at++
        }
        sub(/ +#.*$/, "", text)
        sub(/ +$/, "", text)
        if (first == "[") parse_flow(path, text)
        else if (text == "{}" || text == "~" || text == "null") emit(path, "")
        else emit(path, text)
    }
}

function parse_literal(path, header, indent,    depth, value, line, folded) {
    folded = substr(header, 1, 1) == ">"
    depth = match(header, /[1-9]/) ? (indent < 0 ? 0 : indent) + substr(header, RSTART, 1) : 0
    value = ""
    for (at++; at <= last; at++) {
        line = lines[at]
        if (line !~ /^ *$/) {
            if (indent_of(at) <= indent) break
            if (!depth) depth = indent_of(at)
            if (indent_of(at) < depth) break
        }
        line = substr(line, depth + 1)
        value = value line (folded && line != "" ? " " : "\n")
    }
    if (folded) sub(/ $/, "\n", value)
    if (header !~ /\+/) sub(/\n+$/, "\n", value)
    if (header ~ /-/) sub(/\n+$/, "", value)
    emit(path, value)
}

function parse_quoted(path, text, quote,    value, i, c, blank) {
    value = ""
    i = 2
    while (1) {
        if (i > length(text)) {
            # Continued on the next line: the break is a space, each empty line a newline; a backslash before it joins both.
            if (at >= last) break
            if (substr(text, length(text)) != "\\" || quote != "\"") { sub(/ +$/, "", value); value = value " " }
            blank = ""
            for (at++; at < last && lines[at] ~ /^ *$/; at++) blank = blank "\n"
            if (blank != "") { sub(/ $/, "", value); value = value blank }
            text = lines[at]
            sub(/^ +/, "", text)
            i = 1
            continue
        }
        c = substr(text, i, 1)
        if (c == quote) {
            if (quote == "'" && substr(text, i + 1, 1) == "'") { value = value "'"; i += 2; continue }
            break
        }
        if (c == "\\" && quote == "\"") {
            if (i < length(text)) value = value unescape(substr(text, i + 1, 1))
            i += 2
            continue
        }
        value = value c
        i++
    }
    at++
    emit(path, value)
}

function unescape(c) {
    if (c == "n") return "\n"
    if (c == "t") return "\t"
    if (c == "r") return "\r"
    return c
}

function parse_flow(path, text,    count, parts, i, item) {
    sub(/^\[ */, "", text)
    sub(/ *\]$/, "", text)
    count = text == "" ? 0 : split(text, parts, / *, */)
    for (i = 1; i <= count; i++) {
        item = parts[i]
        if (item ~ /^'.*'$/ || item ~ /^".*"$/) item = substr(item, 2, length(item) - 2)
        emit(join_path(path, i - 1), item)
    }
}
