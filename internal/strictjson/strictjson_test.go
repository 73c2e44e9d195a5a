package strictjson

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/faultline-vm/faultline/internal/problem"
)

type body struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

func TestDecode(t *testing.T) {
	var got body
	if err := Decode(strings.NewReader(` {"name":"a","size":3} `), &got, "see there"); err != nil || got != (body{"a", 3}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	tests := map[string]struct {
		text, code, says string
	}{
		"nothing":          {"", "bad_request", "empty"},
		"no object":        {"[]", "bad_request", "see there"},
		"null":             {" null", "bad_request", "see there"},
		"half an object":   {`{"name":`, "bad_request", "see there"},
		"an unknown field": {`{"naem":"a"}`, "bad_request", "naem"},
		"another type":     {`{"size":"large"}`, "bad_request", "size"},
		"a second object":  {`{"name":"a"}{}`, "bad_request", "goes on"},
		"a tail":           {`{"name":"a"}x`, "bad_request", "goes on"},
		"too much":         {`{"name":"` + strings.Repeat("a", MaxBody) + `"}`, "body_too_large", "exceeds"},
	}
	for name, test := range tests {
		err := Decode(strings.NewReader(test.text), &body{}, "see there")
		var p *problem.Problem
		if !errors.As(err, &p) || p.Code != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeReadsNoMoreThanItMay(t *testing.T) {
	endless := &counter{}
	if err := Decode(endless, &body{}, ""); err == nil {
		t.Fatal("an endless body was accepted")
	}
	if endless.n > 2*MaxBody {
		t.Errorf("%d bytes of a body were read", endless.n)
	}
}

func TestDecodeTellsAnInterruptedBody(t *testing.T) {
	if err := Decode(io.MultiReader(strings.NewReader(`{"name":`), broken{}), &body{}, ""); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(`{"name":"a","size":3}`)
	f.Add(`{"name":"a"} {}`)
	f.Add(`{"name":"a","extra":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		err := Decode(strings.NewReader(text), &body{}, "see there")
		var p *problem.Problem
		if err != nil && (!errors.As(err, &p) || p.Code != "bad_request" && p.Code != "body_too_large") {
			t.Errorf("%q: %v", text, err)
		}
	})
}

type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	c.n += len(p)
	return len(p), nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
