import { useEffect, useState } from 'react'
import { agoText, timeText } from '../text.ts'

/** The time now, again each second. */
export function useNow(): number {
  const [nowMs, setNowMs] = useState(() => Date.now())
  useEffect(() => {
    const timer = setInterval(() => setNowMs(Date.now()), 1_000)
    return () => clearInterval(timer)
  }, [])
  return nowMs
}

export function Ago({ at }: { at: number }) {
  const nowMs = useNow()
  return (
    <time dateTime={new Date(at).toISOString()} title={timeText(at)}>
      {agoText(at, nowMs)}
    </time>
  )
}
