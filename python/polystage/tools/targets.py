"""What `polystage targets` prints."""

from polystage.machine import Target, area, describe_fields


def target_table() -> str:
    """Return the presets, a line each."""
    head = f"{'name':<16} {'sbuf':>9} {'psum':>9}  array     arithmetic       area"
    lines = [head + " (estimate)\n"]
    for name in Target.presets():
        target = Target.load(name)
        sbuf, psum = target.sbuf.bytes // 1024, target.psum.bytes // 1024
        array = f"{target.tensor.rows}x{target.tensor.columns}"
        size = f"{area.estimate(target).total_mm2:.1f} mm2"
        memories = f"{name:<16} {sbuf:>5} KiB {psum:>5} KiB"
        lines.append(f"{memories}  {array:<9} {target.default_dtype:<10} {size:>11}\n")
    return "".join(lines)


def describe_target(name: str) -> str:
    """Return every value of a target with its unit and meaning; assumptions are marked `*`."""
    target = Target.load(name)
    lines = [f"{target.name}: {target.description}; * is assumed, none is published\n"]
    values = target.values()
    for info in describe_fields():
        if "." in info.key:
            mark = "*" if target.is_assumed(info.key) else " "
            value = f"{values[info.key]} {info.quantity.unit}".strip()
            lines.append(f"{mark}{info.key:<36} {value:<24} {info.doc}\n")
    found = area.estimate(target)
    lines.append(f"\narea, estimated from [area]: {found.total_mm2:.4g} mm2\n")
    lines += [f" {name:<36} {size:.4g} mm2\n" for name, size in found.parts_mm2.items()]
    return "".join(lines)
