package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// reg is a 64-bit general register, by its number in the encoding.
type reg byte

const (
	rax reg = iota
	rcx
	rdx
	rbx
	rsp
	rbp
	rsi
	rdi
	r8
	r9
	r10
	r11
	r12
	r13
	r14
	r15
)

func (r reg) low() byte  { return byte(r) & 7 }
func (r reg) high() byte { return byte(r) >> 3 }

// mem is a memory operand: the address in base, plus disp.
type mem struct {
	base reg
	disp int32
}

// cond is a condition of a jump, by its number in the encoding.
type cond byte

const (
	below    cond = 2 // unsigned
	notBelow cond = 3
	equal    cond = 4
	notEqual cond = 5
)

// arith is an operation of the group that shares one encoding scheme: its number
// is the /digit of the immediate form and, times eight, the base of the others.
type arith byte

const (
	add     arith = 0
	or      arith = 1
	and     arith = 4
	sub     arith = 5
	xor     arith = 6
	compare arith = 7
)

// shift is a shift or rotation by a constant, by its /digit.
type shift byte

const (
	rol shift = 0
	shl shift = 4
	shr shift = 5
)

// assembler encodes the few instructions that the program needs, each in one
// fixed form, and resolves labels when all is written. Operands are 64 bits wide
// unless a method says otherwise. The first mistake is kept and returned by link.
type assembler struct {
	origin uint64 // address of the first byte; everything lies below 2 GiB
	code   []byte
	labels map[string]int
	fixups []fixup
	errs   []error
}

// fixup is a 32-bit place in the code that waits for the address of a label.
type fixup struct {
	at       int
	label    string
	relative bool // to the end of the place; else absolute
}

func newAssembler(origin uint64) *assembler {
	return &assembler{origin: origin, labels: map[string]int{}}
}

func (a *assembler) bytes(b ...byte) { a.code = append(a.code, b...) }

func (a *assembler) imm32(v uint32) { a.code = binary.LittleEndian.AppendUint32(a.code, v) }

// label names the current place.
func (a *assembler) label(name string) {
	if _, taken := a.labels[name]; taken {
		a.errs = append(a.errs, fmt.Errorf("label %q is defined twice", name))
	}
	a.labels[name] = len(a.code)
}

// align pads with zeros, so that only data may follow.
func (a *assembler) align(to int) {
	for len(a.code)%to != 0 {
		a.bytes(0)
	}
}

// data places a zero-terminated string under a label.
func (a *assembler) data(name, text string) {
	a.label(name)
	a.bytes([]byte(text)...)
	a.bytes(0)
}

func (a *assembler) refer(label string, relative bool) {
	a.fixups = append(a.fixups, fixup{at: len(a.code), label: label, relative: relative})
	a.imm32(0)
}

// link resolves the labels and returns the code.
func (a *assembler) link() ([]byte, error) {
	for _, f := range a.fixups {
		target, ok := a.labels[f.label]
		if !ok {
			a.errs = append(a.errs, fmt.Errorf("label %q is not defined", f.label))
			continue
		}
		value := a.origin + uint64(target)
		if f.relative {
			value = uint64(target - (f.at + 4))
		}
		binary.LittleEndian.PutUint32(a.code[f.at:], uint32(value))
	}
	return a.code, errors.Join(a.errs...)
}

// address returns where a label lies. It is valid once the label is defined.
func (a *assembler) address(label string) uint64 { return a.origin + uint64(a.labels[label]) }

// rexW is the prefix of a 64-bit operation; the registers' fourth bits go into it.
func rexW(field, base reg) byte { return 0x48 | field.high()<<2 | base.high() }

// modReg appends a ModRM byte for two registers.
func (a *assembler) modReg(field, rm reg) { a.bytes(0xc0 | field.low()<<3 | rm.low()) }

// modMem appends ModRM, SIB where the base needs it, and a 32-bit displacement.
func (a *assembler) modMem(field reg, m mem) {
	if a.bytes(0x80 | field.low()<<3 | m.base.low()); m.base.low() == rsp.low() {
		a.bytes(0x24) // rsp and r12 as a base can only be said in a SIB byte
	}
	a.imm32(uint32(m.disp))
}

func (a *assembler) mov(dst, src reg) { a.bytes(rexW(src, dst), 0x89); a.modReg(src, dst) }

// movImm uses the short form, which clears the upper half, where the value fits.
func (a *assembler) movImm(dst reg, v uint64) {
	if v <= math.MaxUint32 {
		a.movImm32(dst)
		a.imm32(uint32(v))
		return
	}
	a.bytes(rexW(0, dst), 0xb8|dst.low())
	a.code = binary.LittleEndian.AppendUint64(a.code, v)
}

func (a *assembler) movImm32(dst reg) {
	if dst.high() != 0 {
		a.bytes(0x41)
	}
	a.bytes(0xb8 | dst.low())
}

// movLabel loads the address of a label.
func (a *assembler) movLabel(dst reg, label string) { a.movImm32(dst); a.refer(label, false) }

func (a *assembler) load(dst reg, m mem) {
	a.bytes(rexW(dst, m.base), 0x8b)
	a.modMem(dst, m)
}

func (a *assembler) store(m mem, src reg) {
	a.bytes(rexW(src, m.base), 0x89)
	a.modMem(src, m)
}

// store32 writes the lower half of src, as registers of devices want it.
func (a *assembler) store32(m mem, src reg) {
	a.bytes(rexW(src, m.base)&^0x08, 0x89)
	a.modMem(src, m)
}

// loadByte clears the rest of dst.
func (a *assembler) loadByte(dst reg, m mem) {
	a.bytes(rexW(dst, m.base), 0x0f, 0xb6)
	a.modMem(dst, m)
}

func (a *assembler) arith(op arith, dst, src reg) {
	a.bytes(rexW(src, dst), byte(op)<<3|1)
	a.modReg(src, dst)
}

func (a *assembler) arithMem(op arith, dst reg, m mem) {
	a.bytes(rexW(dst, m.base), byte(op)<<3|3)
	a.modMem(dst, m)
}

// arithImm extends its constant's sign to 64 bits.
func (a *assembler) arithImm(op arith, dst reg, v int32) {
	a.bytes(rexW(0, dst), 0x81)
	a.modReg(reg(op), dst)
	a.imm32(uint32(v))
}

func (a *assembler) imul(dst, src reg) {
	a.bytes(rexW(dst, src), 0x0f, 0xaf)
	a.modReg(dst, src)
}

func (a *assembler) shift(op shift, dst reg, by byte) {
	a.bytes(rexW(0, dst), 0xc1)
	a.modReg(reg(op), dst)
	a.bytes(by)
}

// testImm sets the flags of dst & v; v extends its sign to 64 bits.
func (a *assembler) testImm(dst reg, v int32) {
	a.bytes(rexW(0, dst), 0xf7)
	a.modReg(0, dst)
	a.imm32(uint32(v))
}

func (a *assembler) jump(label string)           { a.bytes(0xe9); a.refer(label, true) }
func (a *assembler) jumpIf(c cond, label string) { a.bytes(0x0f, 0x80|byte(c)); a.refer(label, true) }
func (a *assembler) call(label string)           { a.bytes(0xe8); a.refer(label, true) }
func (a *assembler) ret()                        { a.bytes(0xc3) }

// in reads a byte from port dx into al, out writes al to it.
func (a *assembler) in()  { a.bytes(0xec) }
func (a *assembler) out() { a.bytes(0xee) }

func (a *assembler) cli()   { a.bytes(0xfa) }
func (a *assembler) sti()   { a.bytes(0xfb) }
func (a *assembler) hlt()   { a.bytes(0xf4) }
func (a *assembler) iretq() { a.bytes(0x48, 0xcf) }
func (a *assembler) pause() { a.bytes(0xf3, 0x90) }

// rdtsc puts the cycle counter into edx:eax and clears the upper halves.
func (a *assembler) rdtsc() { a.bytes(0x0f, 0x31) }

// loadCR3 reads the address of the page tables.
func (a *assembler) loadCR3(dst reg) {
	a.bytes(0x40|dst.high(), 0x0f, 0x20)
	a.modReg(3, dst)
}

// lidt sets the interrupt table from a ten-byte limit and address.
func (a *assembler) lidt(m mem) {
	a.bytes(rexW(3, m.base), 0x0f, 0x01)
	a.modMem(3, m)
}
