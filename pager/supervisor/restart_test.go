package supervisor

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDelays(t *testing.T) {
	d := deaths{Restart: Restart{MinDelay: 10, MaxDelay: 50, Window: time.Second, Limit: 7}}
	now := time.Unix(1000, 0)
	var got []time.Duration
	for {
		delay, ok := d.add(now)
		if !ok {
			break
		}
		got = append(got, delay)
		now = now.Add(time.Millisecond)
	}
	if diff := cmp.Diff([]time.Duration{0, 10, 20, 40, 50, 50}, got); diff != "" {
		t.Errorf("delays before the limit (-want +got):\n%s", diff)
	}
	if delay, ok := d.add(now.Add(time.Minute)); !ok || delay != 0 {
		t.Errorf("a death after all others are forgotten gave %v, %v; want an immediate restart", delay, ok)
	}
}

func TestNeverGivesUp(t *testing.T) {
	d := deaths{Restart: Restart{Limit: -1}.withDefaults()}
	for range 1000 {
		if delay, ok := d.add(time.Unix(0, 0)); !ok || delay > 5*time.Second {
			t.Fatalf("gave %v, %v", delay, ok)
		}
	}
}

// TestDeathsAgainstModel compares with the definition: the deaths within the
// window count, the delay doubles with their number.
func TestDeathsAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Restart{
			MinDelay: time.Duration(rapid.IntRange(1, 100).Draw(t, "min")),
			Window:   time.Duration(rapid.IntRange(1, 1000).Draw(t, "window")),
			Limit:    rapid.IntRange(1, 12).Draw(t, "limit"),
		}
		r.MaxDelay = r.MinDelay * time.Duration(rapid.IntRange(1, 40).Draw(t, "max"))
		d := deaths{Restart: r}
		var all []time.Time
		now := time.Unix(0, 0)
		for range rapid.IntRange(1, 40).Draw(t, "deaths") {
			now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "pause")))
			all = append(all, now)
			n := 0
			for _, at := range all {
				if now.Sub(at) <= r.Window {
					n++
				}
			}
			want, wantOK := time.Duration(0), n < r.Limit
			if wantOK && n > 1 {
				want = min(r.MinDelay<<(n-2), r.MaxDelay)
			}
			if got, ok := d.add(now); got != want || ok != wantOK {
				t.Fatalf("death %d within the window: %v, %v; want %v, %v", n, got, ok, want, wantOK)
			}
		}
	})
}

func TestRestartValidation(t *testing.T) {
	for _, bad := range []Restart{{MinDelay: -1, MaxDelay: 1}, {MinDelay: 2, MaxDelay: 1}, {Window: -1}} {
		if err := bad.withDefaults().validate(); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}
