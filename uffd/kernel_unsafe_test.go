package uffd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"
)

const header = "/usr/include/linux/userfaultfd.h"

// expressions are what the header must say, as C expressions, and what this
// package says. An expression is passed over where guard is not a macro of the
// header, which may be older.
var expressions = []struct {
	guard, c string
	value    uint64
}{
	{"UFFD_API", "UFFD_API", UFFD_API},
	{"UFFD_USER_MODE_ONLY", "UFFD_USER_MODE_ONLY", UFFD_USER_MODE_ONLY},
	{"USERFAULTFD_IOC_NEW", "USERFAULTFD_IOC_NEW", USERFAULTFD_IOC_NEW},
	{"UFFDIO_API", "UFFDIO_API", uint64(UFFDIO_API)},
	{"UFFDIO_REGISTER", "UFFDIO_REGISTER", uint64(UFFDIO_REGISTER)},
	{"UFFDIO_UNREGISTER", "UFFDIO_UNREGISTER", uint64(UFFDIO_UNREGISTER)},
	{"UFFDIO_WAKE", "UFFDIO_WAKE", uint64(UFFDIO_WAKE)},
	{"UFFDIO_COPY", "UFFDIO_COPY", uint64(UFFDIO_COPY)},
	{"UFFDIO_ZEROPAGE", "UFFDIO_ZEROPAGE", uint64(UFFDIO_ZEROPAGE)},
	{"UFFDIO_WRITEPROTECT", "UFFDIO_WRITEPROTECT", uint64(UFFDIO_WRITEPROTECT)},
	{"UFFDIO_POISON", "UFFDIO_POISON", uint64(UFFDIO_POISON)},
	{"_UFFDIO_MOVE", "_UFFDIO_MOVE", _UFFDIO_MOVE},
	{"_UFFDIO_CONTINUE", "_UFFDIO_CONTINUE", _UFFDIO_CONTINUE},
	{"UFFD_EVENT_PAGEFAULT", "UFFD_EVENT_PAGEFAULT", uint64(UFFD_EVENT_PAGEFAULT)},
	{"UFFD_EVENT_FORK", "UFFD_EVENT_FORK", uint64(UFFD_EVENT_FORK)},
	{"UFFD_EVENT_REMAP", "UFFD_EVENT_REMAP", uint64(UFFD_EVENT_REMAP)},
	{"UFFD_EVENT_REMOVE", "UFFD_EVENT_REMOVE", uint64(UFFD_EVENT_REMOVE)},
	{"UFFD_EVENT_UNMAP", "UFFD_EVENT_UNMAP", uint64(UFFD_EVENT_UNMAP)},
	{"UFFD_PAGEFAULT_FLAG_WRITE", "UFFD_PAGEFAULT_FLAG_WRITE", uint64(UFFD_PAGEFAULT_FLAG_WRITE)},
	{"UFFD_PAGEFAULT_FLAG_WP", "UFFD_PAGEFAULT_FLAG_WP", uint64(UFFD_PAGEFAULT_FLAG_WP)},
	{"UFFD_PAGEFAULT_FLAG_MINOR", "UFFD_PAGEFAULT_FLAG_MINOR", uint64(UFFD_PAGEFAULT_FLAG_MINOR)},
	{"UFFDIO_REGISTER_MODE_MISSING", "UFFDIO_REGISTER_MODE_MISSING", uint64(UFFDIO_REGISTER_MODE_MISSING)},
	{"UFFDIO_REGISTER_MODE_WP", "UFFDIO_REGISTER_MODE_WP", uint64(UFFDIO_REGISTER_MODE_WP)},
	{"UFFDIO_REGISTER_MODE_MINOR", "UFFDIO_REGISTER_MODE_MINOR", uint64(UFFDIO_REGISTER_MODE_MINOR)},
	{"UFFDIO_COPY_MODE_DONTWAKE", "UFFDIO_COPY_MODE_DONTWAKE", uint64(UFFDIO_COPY_MODE_DONTWAKE)},
	{"UFFDIO_COPY_MODE_WP", "UFFDIO_COPY_MODE_WP", uint64(UFFDIO_COPY_MODE_WP)},
	{"UFFDIO_ZEROPAGE_MODE_DONTWAKE", "UFFDIO_ZEROPAGE_MODE_DONTWAKE", uint64(UFFDIO_ZEROPAGE_MODE_DONTWAKE)},
	{"UFFDIO_WRITEPROTECT_MODE_WP", "UFFDIO_WRITEPROTECT_MODE_WP", uint64(UFFDIO_WRITEPROTECT_MODE_WP)},
	{"UFFDIO_WRITEPROTECT_MODE_DONTWAKE", "UFFDIO_WRITEPROTECT_MODE_DONTWAKE", uint64(UFFDIO_WRITEPROTECT_MODE_DONTWAKE)},
	{"UFFDIO_POISON_MODE_DONTWAKE", "UFFDIO_POISON_MODE_DONTWAKE", uint64(UFFDIO_POISON_MODE_DONTWAKE)},

	{"UFFD_API", "sizeof(struct uffd_msg)", uint64(unsafe.Sizeof(uffdMsg{}))},
	{"UFFD_API", "offsetof(struct uffd_msg, event)", uint64(unsafe.Offsetof(uffdMsg{}.event))},
	{"UFFD_API", "offsetof(struct uffd_msg, arg.pagefault.flags)", uint64(unsafe.Offsetof(uffdMsg{}.arg))},
	{"UFFD_API", "offsetof(struct uffd_msg, arg.pagefault.address)", uint64(unsafe.Offsetof(uffdMsg{}.arg)) + 8},
	{"UFFD_API", "offsetof(struct uffd_msg, arg.pagefault.feat.ptid)", uint64(unsafe.Offsetof(uffdMsg{}.arg)) + 16},
	{"UFFD_API", "offsetof(struct uffd_msg, arg.remove.start)", uint64(unsafe.Offsetof(uffdMsg{}.arg))},
	{"UFFD_API", "offsetof(struct uffd_msg, arg.remove.end)", uint64(unsafe.Offsetof(uffdMsg{}.arg)) + 8},
	{"UFFD_API", "sizeof(struct uffdio_api)", uint64(unsafe.Sizeof(uffdioAPI{}))},
	{"UFFD_API", "offsetof(struct uffdio_api, features)", uint64(unsafe.Offsetof(uffdioAPI{}.features))},
	{"UFFD_API", "offsetof(struct uffdio_api, ioctls)", uint64(unsafe.Offsetof(uffdioAPI{}.ioctls))},
	{"UFFD_API", "sizeof(struct uffdio_range)", uint64(unsafe.Sizeof(uffdioRange{}))},
	{"UFFD_API", "offsetof(struct uffdio_range, len)", uint64(unsafe.Offsetof(uffdioRange{}.len))},
	{"UFFD_API", "sizeof(struct uffdio_register)", uint64(unsafe.Sizeof(uffdioRegister{}))},
	{"UFFD_API", "offsetof(struct uffdio_register, mode)", uint64(unsafe.Offsetof(uffdioRegister{}.mode))},
	{"UFFD_API", "offsetof(struct uffdio_register, ioctls)", uint64(unsafe.Offsetof(uffdioRegister{}.ioctls))},
	{"UFFD_API", "sizeof(struct uffdio_copy)", uint64(unsafe.Sizeof(uffdioCopy{}))},
	{"UFFD_API", "offsetof(struct uffdio_copy, src)", uint64(unsafe.Offsetof(uffdioCopy{}.src))},
	{"UFFD_API", "offsetof(struct uffdio_copy, len)", uint64(unsafe.Offsetof(uffdioCopy{}.len))},
	{"UFFD_API", "offsetof(struct uffdio_copy, mode)", uint64(unsafe.Offsetof(uffdioCopy{}.mode))},
	{"UFFD_API", "offsetof(struct uffdio_copy, copy)", uint64(unsafe.Offsetof(uffdioCopy{}.copy))},
	{"UFFD_API", "sizeof(struct uffdio_zeropage)", uint64(unsafe.Sizeof(uffdioZeropage{}))},
	{"UFFD_API", "offsetof(struct uffdio_zeropage, mode)", uint64(unsafe.Offsetof(uffdioZeropage{}.mode))},
	{"UFFD_API", "offsetof(struct uffdio_zeropage, zeropage)", uint64(unsafe.Offsetof(uffdioZeropage{}.zeropage))},
	{"UFFD_API", "sizeof(struct uffdio_writeprotect)", uint64(unsafe.Sizeof(uffdioWriteprotect{}))},
	{"UFFD_API", "offsetof(struct uffdio_writeprotect, mode)", uint64(unsafe.Offsetof(uffdioWriteprotect{}.mode))},
	{"UFFDIO_POISON", "sizeof(struct uffdio_poison)", uint64(unsafe.Sizeof(uffdioPoison{}))},
	{"UFFDIO_POISON", "offsetof(struct uffdio_poison, mode)", uint64(unsafe.Offsetof(uffdioPoison{}.mode))},
	{"UFFDIO_POISON", "offsetof(struct uffdio_poison, updated)", uint64(unsafe.Offsetof(uffdioPoison{}.updated))},
}

// TestKernelHeader lets a C compiler evaluate the header.
func TestKernelHeader(t *testing.T) {
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler; install gcc or clang as cc")
	}
	if _, err := os.Stat(header); errors.Is(err, os.ErrNotExist) {
		t.Skip("no kernel headers; install linux-libc-dev or kernel-headers")
	}
	checks := expressions
	for _, f := range featureNames {
		checks = append(checks, struct {
			guard, c string
			value    uint64
		}{f.name, f.name, uint64(f.feature)})
	}

	var source strings.Builder
	source.WriteString("#include <stddef.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n#include <linux/userfaultfd.h>\nint main(void) {\n")
	for i, e := range checks {
		fmt.Fprintf(&source, "#ifdef %s\nprintf(\"%d %%llu\\n\", (unsigned long long)(%s));\n#endif\n", e.guard, i, e.c)
	}
	source.WriteString("return 0; }\n")
	dir := t.TempDir()
	file, program := filepath.Join(dir, "header.c"), filepath.Join(dir, "header")
	if err := os.WriteFile(file, []byte(source.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(compiler, "-o", program, file).CombinedOutput(); err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	out, err := exec.Command(program).Output()
	if err != nil {
		t.Fatal(err)
	}
	known := map[int]uint64{}
	for line := range strings.Lines(string(out)) {
		var i int
		var value uint64
		if _, err := fmt.Sscan(line, &i, &value); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		known[i] = value
	}
	var unknown []string
	for i, e := range checks {
		switch value, ok := known[i]; {
		case !ok:
			unknown = append(unknown, e.c)
		case value != e.value:
			t.Errorf("%s is %#x here and %#x in the header", e.c, e.value, value)
		}
	}
	if len(known) == 0 {
		t.Fatal("the header defines nothing")
	}
	if len(unknown) > 0 {
		t.Run("newer than the header", func(t *testing.T) {
			t.Skipf("not in %s; install the headers of a newer kernel: %s", header, strings.Join(unknown, ", "))
		})
	}
}
