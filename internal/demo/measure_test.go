package demo

import (
	"os"
	"testing"
	"time"
)

func TestPercentiles(t *testing.T) {
	if got := percentiles(nil); got != (Percentiles{}) {
		t.Errorf("of nothing: %+v", got)
	}
	if got := percentiles([]time.Duration{7 * time.Millisecond}); got != (Percentiles{7, 7, 7}) {
		t.Errorf("of one: %+v", got)
	}
	var times []time.Duration
	for i := 200; i >= 1; i-- {
		times = append(times, time.Duration(i)*time.Millisecond)
	}
	if got, want := percentiles(times), (Percentiles{P50: 100, P95: 190, P99: 198}); got != want {
		t.Errorf("of 200 down to 1: %+v, want %+v", got, want)
	}
	if times[0] != 200*time.Millisecond {
		t.Error("the caller's slice was sorted")
	}
}

func TestParsePss(t *testing.T) {
	got, err := parsePss("5581-7ffc [rollup]\nRss:     884 kB\nPss:     385 kB\nPss_Dirty:   68 kB\n")
	if err != nil || got != 385<<10 {
		t.Errorf("got %d, %v, want %d", got, err, 385<<10)
	}
	for _, text := range []string{"", "Rss: 1 kB\n", "Pss: many kB\n", "Pss: -1 kB\n"} {
		if got, err := parsePss(text); err == nil {
			t.Errorf("%q gave %d and no error", text, got)
		}
	}
}

func TestMeasuringThisProcess(t *testing.T) {
	memory, err := proportionalMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	faults, err := processFaults(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if memory < 1<<20 || memory > 1<<34 || faults < 100 {
		t.Errorf("%d bytes and %d faults cannot be right for a Go program", memory, faults)
	}
}
