package kernel

import (
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// instruction is one encoding: the bytes are those of the processor manual, the
// text is how objdump writes them.
type instruction struct {
	emit func(a *assembler)
	hex  string
	text string
}

var instructions = []instruction{
	{func(a *assembler) { a.mov(rax, rdx) }, "4889d0", "mov rax,rdx"},
	{func(a *assembler) { a.mov(r12, rsi) }, "4989f4", "mov r12,rsi"},
	{func(a *assembler) { a.mov(rbx, r15) }, "4c89fb", "mov rbx,r15"},
	{func(a *assembler) { a.movImm(rcx, 0xfee00000) }, "b90000e0fe", "mov ecx,0xfee00000"},
	{func(a *assembler) { a.movImm(r8, 16) }, "41b810000000", "mov r8d,0x10"},
	{func(a *assembler) { a.movImm(rbp, 1<<32) }, "48bd0000000001000000", "movabs rbp,0x100000000"},
	{func(a *assembler) { a.movImm(r14, 0x9e3779b97f4a7c15) }, "49be157c4a7fb979379e", "movabs r14,0x9e3779b97f4a7c15"},
	{func(a *assembler) { a.load(rax, mem{rbx, 0x18}) }, "488b8318000000", "mov rax,QWORD PTR [rbx+0x18]"},
	{func(a *assembler) { a.load(r9, mem{rsp, -8}) }, "4c8b8c24f8ffffff", "mov r9,QWORD PTR [rsp-0x8]"},
	{func(a *assembler) { a.load(rsi, mem{r12, 8}) }, "498bb42408000000", "mov rsi,QWORD PTR [r12+0x8]"},
	{func(a *assembler) { a.load(rsi, mem{r13, 8}) }, "498bb508000000", "mov rsi,QWORD PTR [r13+0x8]"},
	{func(a *assembler) { a.store(mem{rcx, 0xc00000}, rbp) }, "4889a90000c000", "mov QWORD PTR [rcx+0xc00000],rbp"},
	{func(a *assembler) { a.store(mem{rdi, 0x3f8}, r10) }, "4c8997f8030000", "mov QWORD PTR [rdi+0x3f8],r10"},
	{func(a *assembler) { a.store32(mem{rdx, 0xf0}, rax) }, "408982f0000000", "rex mov DWORD PTR [rdx+0xf0],eax"},
	{func(a *assembler) { a.loadByte(rax, mem{rsi, 1}) }, "480fb68601000000", "movzx rax,BYTE PTR [rsi+0x1]"},
	{func(a *assembler) { a.arith(add, rdx, r13) }, "4c01ea", "add rdx,r13"},
	{func(a *assembler) { a.arith(or, rdx, rax) }, "4809c2", "or rdx,rax"},
	{func(a *assembler) { a.arith(sub, rcx, rax) }, "4829c1", "sub rcx,rax"},
	{func(a *assembler) { a.arith(xor, rax, rcx) }, "4831c8", "xor rax,rcx"},
	{func(a *assembler) { a.arith(compare, rsi, r11) }, "4c39de", "cmp rsi,r11"},
	{func(a *assembler) { a.arithMem(compare, rax, mem{rdi, 8}) }, "483b8708000000", "cmp rax,QWORD PTR [rdi+0x8]"},
	{func(a *assembler) { a.arithMem(add, rdx, mem{rbx, 32}) }, "48039320000000", "add rdx,QWORD PTR [rbx+0x20]"},
	{func(a *assembler) { a.arithImm(add, r8, 1) }, "4981c001000000", "add r8,0x1"},
	{func(a *assembler) { a.arithImm(and, rax, -4096) }, "4881e000f0ffff", "and rax,0xfffffffffffff000"},
	{func(a *assembler) { a.arithImm(compare, rax, 'p') }, "4881f870000000", "cmp rax,0x70"},
	{func(a *assembler) { a.imul(rax, r14) }, "490fafc6", "imul rax,r14"},
	{func(a *assembler) { a.imul(rdi, r9) }, "490faff9", "imul rdi,r9"},
	{func(a *assembler) { a.shift(shr, rax, 31) }, "48c1e81f", "shr rax,0x1f"},
	{func(a *assembler) { a.shift(shl, rdx, 32) }, "48c1e220", "shl rdx,0x20"},
	{func(a *assembler) { a.shift(rol, rcx, 4) }, "48c1c104", "rol rcx,0x4"},
	{func(a *assembler) { a.testImm(rdi, 0xfff) }, "48f7c7ff0f0000", "test rdi,0xfff"},
	{func(a *assembler) { a.ret() }, "c3", "ret"},
	{func(a *assembler) { a.in() }, "ec", "in al,dx"},
	{func(a *assembler) { a.out() }, "ee", "out dx,al"},
	{func(a *assembler) { a.cli() }, "fa", "cli"},
	{func(a *assembler) { a.sti() }, "fb", "sti"},
	{func(a *assembler) { a.hlt() }, "f4", "hlt"},
	{func(a *assembler) { a.iretq() }, "48cf", "iretq"},
	{func(a *assembler) { a.pause() }, "f390", "pause"},
	{func(a *assembler) { a.rdtsc() }, "0f31", "rdtsc"},
	{func(a *assembler) { a.loadCR3(rax) }, "400f20d8", "rex mov rax,cr3"},
	{func(a *assembler) { a.lidt(mem{rax, 0}) }, "480f019800000000", "rex.W lidt [rax+0x0]"},
}

func TestInstructionBytes(t *testing.T) {
	for _, i := range instructions {
		a := newAssembler(0)
		i.emit(a)
		code, err := a.link()
		if err != nil {
			t.Fatalf("%s: %v", i.text, err)
		}
		if got := hex.EncodeToString(code); got != i.hex {
			t.Errorf("%s: %s, want %s", i.text, got, i.hex)
		}
	}
}

// TestInstructionsDisassemble asks somebody else what the bytes mean.
func TestInstructionsDisassemble(t *testing.T) {
	objdump, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("no objdump on PATH; install binutils to compare the encoder with it")
	}
	help, err := exec.Command(objdump, "--info").Output()
	if err != nil || !strings.Contains(string(help), "elf64-x86-64") {
		t.Skip("objdump does not know x86-64; install binutils for it to compare the encoder")
	}
	a := newAssembler(0)
	var want []string
	for _, i := range instructions {
		i.emit(a)
		want = append(want, i.text)
	}
	code, err := a.link()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(path, code, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(objdump, "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "-w", "--no-show-raw-insn", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^ *[0-9a-f]+:\t(.*)$`).FindAllStringSubmatch(string(out), -1) {
		got = append(got, strings.Join(strings.Fields(m[1]), " "))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objdump reads something else (-want +got):\n%s", diff)
	}
}

func TestLabels(t *testing.T) {
	a := newAssembler(0x800000)
	a.jump("end")          // e9 forward
	a.label("here")        // 0x800005
	a.jumpIf(below, "end") // 0f 82
	a.jumpIf(notBelow, "here")
	a.call("here")
	a.movLabel(r9, "end")
	a.label("end")
	a.data("text", "a")
	code, err := a.link()
	if err != nil {
		t.Fatal(err)
	}
	const want = "e917000000" + "0f8211000000" + "0f83f4ffffff" + "e8efffffff" + "41b91c008000" + "6100"
	if got := hex.EncodeToString(code); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := a.address("text"); got != 0x80001c {
		t.Errorf("address of text is %#x", got)
	}
}

func TestLabelMistakesAreErrors(t *testing.T) {
	a := newAssembler(0)
	a.label("twice")
	a.label("twice")
	a.jump("nowhere")
	_, err := a.link()
	if err == nil || !strings.Contains(err.Error(), `"twice" is defined twice`) || !strings.Contains(err.Error(), `"nowhere" is not defined`) {
		t.Errorf("link: %v", err)
	}
}
