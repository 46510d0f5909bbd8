import { useEffect, useRef, useState } from 'react'
import { readJobLog } from '../../../src/api/control/job-endpoints.ts'
import type { LogLineView } from '../../../src/api/control/jobs.ts'
import { service } from '../service.ts'
import { Problem } from './problem.tsx'

/** A browser shows no more; the command line has them all. */
const linesMax = 5_000
const drawnEveryMs = 200

/** What a job printed, and goes on printing. */
export function JobLog({ project, job }: { project: string; job: string }) {
  const [lines, setLines] = useState<readonly LogLineView[]>([])
  const [error, setError] = useState<unknown>()
  useEffect(() => {
    const gone = new AbortController()
    let all: LogLineView[] = []
    let drawn = 0
    // A log of thousands of lines comes in one piece: each of them must not draw the page.
    const timer = setInterval(() => {
      if (all.length === drawn) return
      all = all.slice(-linesMax)
      drawn = all.length
      setLines([...all])
    }, drawnEveryMs)
    const read = async () => {
      const input = { params: { project, job }, query: { follow: 'true' as const }, signal: gone.signal }
      for await (const line of service.events(readJobLog, input)) all.push(line as LogLineView)
    }
    read().catch((problem: unknown) => {
      if (!gone.signal.aborted) setError(problem)
    })
    return () => {
      gone.abort()
      clearInterval(timer)
    }
  }, [project, job])
  const end = useRef<HTMLDivElement>(null)
  // It goes to the end with each new line.
  useEffect(() => {
    if (lines.length > 0) void end.current?.scrollIntoView({ block: 'nearest' })
  }, [lines])
  return (
    <>
      <Problem error={error} />
      <div className="log" role="log">
        {lines.map((line, at) => (
          <div key={at} className={line.stream}>
            {line.text}
          </div>
        ))}
        <div ref={end} />
      </div>
      {lines.length >= linesMax && (
        <p className="quiet">The last {linesMax} lines; ropeway job logs has them all.</p>
      )}
    </>
  )
}
