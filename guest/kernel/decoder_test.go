package kernel

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// decoder reads one instruction from code, which holds at least the longest one.
type decoder struct {
	code []byte
	at   int
	rex  byte
}

func (d *decoder) imm32() uint64 {
	v := int32(binary.LittleEndian.Uint32(d.code[d.at:]))
	d.at += 4
	return uint64(int64(v))
}

func (d *decoder) imm8() byte { d.at++; return d.code[d.at-1] }

// operands decodes ModRM: the register field, and a register or an address.
func (d *decoder) operands(regs *[16]uint64) (field, rm reg, address uint64, memory bool) {
	m := d.imm8()
	field = reg(m>>3&7 | d.rex&4<<1)
	rm = reg(m&7 | d.rex&1<<3)
	if m>>6 == 3 {
		return field, rm, 0, false
	}
	if m&7 == 4 {
		rm = reg(d.imm8()&7 | d.rex&1<<3)
	}
	return field, rm, regs[rm] + d.imm32(), true
}

// execute carries out an instruction and returns by how much it jumps.
func (e *emulator) execute(op uint64, d *decoder) (jump uint64, err error) {
	switch {
	case op == 0x90 || op == 0xf3: // pause is f3 90
		return 0, nil
	case op == 0xfa || op == 0xfb:
		e.interrupts = op == 0xfb
		return 0, nil
	case op == 0xec || op == 0xee:
		return 0, e.port(op == 0xee)
	case op == 0xe9:
		return d.imm32(), nil
	case op&^0xf == 0x0f80:
		target := d.imm32()
		met, known := map[cond]bool{below: e.carry, notBelow: !e.carry, equal: e.zero, notEqual: !e.zero}[cond(op&0xf)]
		if !known {
			return 0, fmt.Errorf("condition %#x", op&0xf)
		}
		if met {
			return target, nil
		}
		return 0, nil
	case op == 0xe8:
		target := d.imm32()
		e.regs[rsp] -= 8
		return target, e.store(e.regs[rsp], e.rip+uint64(d.at), true)
	case op == 0xc3:
		back, err := e.load(e.regs[rsp])
		e.regs[rsp] += 8
		return back - e.rip - uint64(d.at), err
	case op&^7 == 0xb8:
		r := reg(op&7 | uint64(d.rex&1<<3))
		if d.rex&8 == 0 {
			e.regs[r] = d.imm32() & (1<<32 - 1)
			return 0, nil
		}
		e.regs[r] = binary.LittleEndian.Uint64(d.code[d.at:])
		d.at += 8
		return 0, nil
	case op == 0x0f31:
		e.clocks = append(e.clocks, e.clock)
		e.regs[rax], e.regs[rdx] = e.clock&(1<<32-1), e.clock>>32
		return 0, nil
	}
	return 0, e.executeOperands(op, d)
}

func (e *emulator) executeOperands(op uint64, d *decoder) error {
	field, rm, address, memory := d.operands(&e.regs)
	switch {
	case op == 0x89 && memory:
		return e.store(address, e.regs[field], d.rex&8 != 0)
	case op == 0x89:
		e.regs[rm] = e.regs[field]
	case op == 0x0fb6:
		b, err := e.at(address)
		if err != nil {
			return err
		}
		e.regs[field] = uint64(b[0])
	case op == 0x0f20 && field == 3:
		e.regs[rm] = e.cr3
	case op == 0x0f01 && field == 3:
		b, err := e.fetch(address)
		if err != nil {
			return err
		}
		e.idt = binary.LittleEndian.Uint64(b[2:])
	case op == 0x0faf:
		e.regs[field] *= e.regs[rm]
	case op == 0x81:
		if v, keep := e.compute(arith(field), e.regs[rm], d.imm32()); keep {
			e.regs[rm] = v
		}
	case op == 0xf7 && field == 0:
		e.compute(and, e.regs[rm], d.imm32())
	case op == 0xc1:
		by := int(d.imm8())
		switch shift(field) {
		case rol:
			e.regs[rm] = bits.RotateLeft64(e.regs[rm], by)
		case shl:
			e.regs[rm] = e.result(e.regs[rm]<<by, false)
		case shr:
			e.regs[rm] = e.result(e.regs[rm]>>by, false)
		}
	case op == 0x8b || op < 0x40 && op&7 == 3:
		v, err := e.load(address)
		if err != nil {
			return err
		}
		if op == 0x8b {
			e.regs[field] = v
		} else if v, keep := e.compute(arith(op>>3), e.regs[field], v); keep {
			e.regs[field] = v
		}
	case op < 0x40 && op&7 == 1:
		if v, keep := e.compute(arith(op>>3), e.regs[rm], e.regs[field]); keep {
			e.regs[rm] = v
		}
	default:
		return fmt.Errorf("unknown instruction %#x", op)
	}
	return nil
}
