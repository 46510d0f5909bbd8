/** The one of `names` that was probably meant by `given`: at most a third of its letters away; undefined where none is. */
export function nearest(given: string, names: Iterable<string>): string | undefined {
  let best: string | undefined
  // Of a letter alone nothing would be left.
  let least = Math.max(Math.min(1, given.length - 1), Math.floor(given.length / 3)) + 1
  for (const name of names) {
    const apart = editDistance(given.toLowerCase(), name.toLowerCase(), least)
    if (apart < least) [best, least] = [name, apart]
  }
  return best
}

/** Letters to insert, remove or replace (Levenshtein 1966); `most` where it takes as many or more. */
function editDistance(a: string, b: string, most: number): number {
  if (Math.abs(a.length - b.length) >= most) return most
  let above = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = above[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      row.push(Math.min(replaced, above[j]! + 1, row[j - 1]! + 1))
    }
    above = row
  }
  return Math.min(most, above[b.length]!)
}
