package fcsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// member is one member of a JSON object of the API.
type member struct {
	name string
	into any // pointer to where the value goes
	need need
	// oneOf, if not empty, are the values of a string that are known.
	oneOf []string
}

type need int

const (
	required  need = iota
	defaulted      // may be left out, but not be null
	optional       // may be left out or be null; both leave *into alone
)

// decode reads a body that is one JSON object, as strictly as Firecracker's
// parser does: names match exactly, none may be unknown or come twice, nothing
// may follow. Package encoding/json alone is more lenient in each of these, and a
// driver that is only tested with fcsim would get away with it.
func decode(body []byte, members ...member) error {
	return decodeObject(body, false, members)
}

// decodeOpen ignores members that are unknown, which Firecracker does in the
// overrides of a load.
func decodeOpen(body []byte, members ...member) error { return decodeObject(body, true, members) }

func decodeObject(body []byte, open bool, members []member) error {
	d := json.NewDecoder(bytes.NewReader(body))
	first, err := d.Token()
	if err != nil {
		return bodyFault(syntaxFault(err))
	}
	if first != json.Delim('{') {
		return bodyFault(fmt.Errorf("invalid type: %v, expected an object", first))
	}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return bodyFault(syntaxFault(err))
		}
		name := token.(string) // the decoder lets nothing else be a name
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return bodyFault(syntaxFault(err))
		}
		at := slices.IndexFunc(members, func(m member) bool { return m.name == name })
		switch {
		case at < 0 && open:
			continue
		case at < 0:
			return bodyFault(fmt.Errorf("unknown field `%s`, expected %s", name, anyOf(names(members))))
		case seen[name]:
			return bodyFault(fmt.Errorf("duplicate field `%s`", name))
		}
		seen[name] = true
		if err := members[at].decode(raw); err != nil {
			return bodyFault(err)
		}
	}
	if _, err := d.Token(); err != nil {
		return bodyFault(syntaxFault(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bodyFault(errors.New("trailing characters"))
	}
	for _, m := range members {
		if m.need == required && !seen[m.name] {
			return bodyFault(fmt.Errorf("missing field `%s`", m.name))
		}
	}
	return nil
}

// bodyFault words an error in a body as Firecracker does, but for the line and
// column that it appends.
func bodyFault(err error) error {
	return faultf("An error occurred when deserializing the json body of a request: %w.", err)
}

func syntaxFault(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("EOF while parsing an object")
	}
	return err
}

func (m *member) decode(raw json.RawMessage) error {
	isNull := string(raw) == "null"
	if isNull && m.need == optional {
		return nil
	}
	if err := json.Unmarshal(raw, m.into); err != nil || isNull {
		return fmt.Errorf("invalid type: %s, expected %s for `%s`", shorten(string(raw)), typeName(m.into), m.name)
	}
	if len(m.oneOf) == 0 {
		return nil
	}
	if s := stringOf(m.into); !slices.Contains(m.oneOf, s) {
		return fmt.Errorf("unknown variant `%s`, expected %s", s, anyOf(m.oneOf))
	}
	return nil
}

func stringOf(into any) string {
	v := reflect.ValueOf(into).Elem()
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	return v.String()
}

// typeName is what Firecracker calls the type of *into.
func typeName(into any) string {
	t := reflect.TypeOf(into).Elem()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return "u" + strings.TrimPrefix(t.Kind().String(), "uint")
	case reflect.Uint64:
		return "usize"
	case reflect.Bool:
		return "a boolean"
	case reflect.String:
		return "a string"
	}
	return "an object or a list"
}

func names(members []member) []string {
	all := make([]string, len(members))
	for i, m := range members {
		all[i] = m.name
	}
	return all
}

// anyOf lists alternatives as Firecracker's parser does.
func anyOf(words []string) string {
	switch quoted := "`" + strings.Join(words, "`, `") + "`"; len(words) {
	case 1:
		return quoted
	case 2:
		return strings.Replace(quoted, ",", " or", 1)
	default:
		return "one of " + quoted
	}
}

// shorten keeps fault messages readable whatever was sent.
func shorten(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
