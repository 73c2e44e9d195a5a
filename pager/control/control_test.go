package control

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzSessionRequest checks what every accepted request promises to the pager.
func FuzzSessionRequest(f *testing.F) {
	f.Add([]byte(`{"id":"a","image":"/data/memory.json"}`))
	f.Add([]byte(`{"id":"a.b-c_D9","image":"/x","overlays":[{"offset":4096,"data":"AAECAw=="}],"connect_timeout_ms":5}`))
	f.Add([]byte(`{"id":"../x","image":"/x"}`))
	f.Add([]byte(`{"id":"a","image":"/x","overlays":[{"offset":-1,"data":"AA=="}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := DecodeSessionRequest(bytes.NewReader(body))
		if err != nil {
			return
		}
		if filepath.Base(req.ID) != req.ID || strings.HasPrefix(req.ID, ".") || !filepath.IsAbs(req.Image) {
			t.Fatalf("accepted %+v", req)
		}
		for _, o := range req.Overlays {
			if o.Offset%PageSize != 0 || len(o.Data) == 0 || len(o.Data) > PageSize {
				t.Fatalf("accepted overlay at %d of %d bytes", o.Offset, len(o.Data))
			}
		}
		again, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeSessionRequest(bytes.NewReader(again)); err != nil {
			t.Fatalf("its own encoding %s is refused: %v", again, err)
		}
	})
}
