/** How much of `total` is done; without a total, nothing is shown. */
export function Progress({ done, total }: { done: number; total: number | null }) {
  if (total === null || total <= 0) return null
  const share = Math.min(1, done / total)
  return (
    <progress value={done} max={total} title={`${done} of ${total}`}>
      {Math.round(share * 100)} %
    </progress>
  )
}
