package daemon

import (
	"testing"
	"time"

	"github.com/faultline-vm/faultline/config"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

func TestSupervision(t *testing.T) {
	for _, test := range []struct {
		manager      string
		watchdog     time.Duration
		wantManager  supervisor.Manager
		wantWatchdog time.Duration
	}{
		{"auto", 0, supervisor.Auto, -1}, // never, which is not the default
		{"child", 30 * time.Second, supervisor.Child, 30 * time.Second},
	} {
		c := config.Default()
		c.Pager.Manager, c.Pager.Watchdog = test.manager, test.watchdog
		got := supervision(c, nil)
		if got.Manager != test.wantManager || got.Watchdog != test.wantWatchdog || got.DataDir != c.DataDir {
			t.Errorf("%+v gave %+v", c.Pager, got)
		}
	}
}
