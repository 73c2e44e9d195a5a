package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/internal/atomicfile"
	"github.com/faultline-vm/faultline/internal/strictjson"
	"github.com/faultline-vm/faultline/pager"
	"github.com/faultline-vm/faultline/pager/control"
)

// choice is the content of chosen.json.
type choice struct {
	// Version is where new sessions go.
	Version string `json:"version"`
	// Instead is the version that the program which chose was built with. A choice
	// holds for programs of that version: a later Faultline brings a later pager,
	// and is not to go on with what its predecessor was told.
	Instead string `json:"instead"`
}

func choicePath(dataDir string) string { return filepath.Join(root(dataDir), "chosen.json") }

// Current returns the version that new sessions go to: the one chosen, else the one
// that this program was built with.
func Current(dataDir string) (string, error) {
	data, err := os.ReadFile(choicePath(dataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return pager.Version(), nil
	}
	var c choice
	if err == nil {
		c, err = decodeChoice(data)
	}
	if err != nil {
		return "", fmt.Errorf("which pager new sessions go to: %s: %w; choose again with faultline pager upgrade, or remove the file", choicePath(dataDir), err)
	}
	if c.Instead != pager.Version() {
		return pager.Version(), nil
	}
	return c.Version, nil
}

func decodeChoice(data []byte) (choice, error) {
	var c choice
	if err := strictjson.Unmarshal(data, &c); err != nil {
		return choice{}, err
	}
	if !control.ValidID(c.Version) || !control.ValidID(c.Instead) {
		return choice{}, fmt.Errorf("versions %.80q and %.80q cannot both name directories", c.Version, c.Instead)
	}
	return c, nil
}

// Choose makes a version the one that new sessions go to, for all programs that were
// built with the same pager as this one.
func Choose(dataDir, version string) error {
	data, err := json.Marshal(choice{Version: version, Instead: pager.Version()})
	if err == nil {
		err = os.MkdirAll(root(dataDir), 0o700)
	}
	if err == nil {
		err = atomicfile.WriteFile(choicePath(dataDir), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("choosing the pager %s: %w", version, err)
	}
	return nil
}
