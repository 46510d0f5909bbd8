/** The lowest free indices of `total` devices, `perMember` for each of `members`; undefined when they do not suffice. */
export function freeDevices(
  total: number,
  taken: ReadonlySet<number>,
  perMember: number,
  members: number,
): number[][] | undefined {
  const free = Array.from({ length: total }, (_, index) => index).filter((index) => !taken.has(index))
  if (free.length < perMember * members) return undefined
  return Array.from({ length: members }, (_, member) =>
    free.slice(member * perMember, (member + 1) * perMember),
  )
}
