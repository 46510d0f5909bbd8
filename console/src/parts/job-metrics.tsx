import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useEffect } from 'react'
import { listJobMetrics, readJobMetric } from '../../../src/api/control/job-endpoints.ts'
import { keyOf, seldom, service, useAnswer } from '../service.ts'
import { Chart, type Curve } from './chart.tsx'
import { Problem } from './problem.tsx'
import { Waiting } from './waiting.tsx'

interface Point {
  readonly step: number
  readonly at: number
  readonly value: number | string
}

interface OfJob {
  readonly project: string
  readonly job: string
  readonly isLive: boolean
}

const liveEveryMs = 2_000
const isLoss = (name: string) => /(^|[^a-z])loss([^a-z]|$)/i.test(name)

/** Every metric that a job reported: its losses in one chart, others in one each, texts as texts. */
export function JobMetrics({ project, job, isLive }: OfJob) {
  const params = { project, job }
  const { data, error, refetch } = useAnswer(listJobMetrics, { params }, { every: isLive ? seldom : false })
  const names = data?.items.map(({ name }) => name) ?? []
  const points = usePoints({ project, job, isLive }, names)
  const { refetch: refetchPoints } = points
  useEffect(() => {
    // What it reported last came behind the last look.
    if (!isLive) void refetch().then(() => refetchPoints())
  }, [isLive, refetch, refetchPoints])
  if (error || data === undefined) return <Waiting error={error} />
  if (names.length === 0) return <p className="empty">It has reported nothing yet.</p>
  const curves = names.map((name) => curveOf(name, points.data?.get(name) ?? []))
  const losses = curves.filter(({ name, points }) => isLoss(name) && points.length > 0)
  const others = curves.filter(({ name, points }) => !isLoss(name) && points.length > 0)
  return (
    <>
      <Problem error={points.error} />
      <div className="charts">
        {losses.length > 0 && <Chart title="Loss" curves={losses} />}
        {others.map((curve) => (
          <Chart key={curve.name} title={curve.name.replaceAll('_', ' ')} curves={[curve]} />
        ))}
      </div>
      {names.map((name) => (
        <Texts key={name} name={name} points={points.data?.get(name) ?? []} />
      ))}
    </>
  )
}

/** What is there stays; only steps behind the last one are asked for. */
function usePoints({ project, job, isLive }: OfJob, names: readonly string[]) {
  const queries = useQueryClient()
  const key = [...keyOf(readJobMetric, { params: { project, job } }), names]
  return useQuery({
    queryKey: key,
    enabled: names.length > 0,
    refetchInterval: isLive ? liveEveryMs : false,
    queryFn: async ({ signal }) => {
      const known = queries.getQueryData<ReadonlyMap<string, readonly Point[]>>(key)
      const all = names.map(async (name): Promise<[string, readonly Point[]]> => {
        const before = known?.get(name) ?? []
        const query = { name, after: before.at(-1)?.step ?? -1 }
        const { items } = await service.call(readJobMetric, { params: { project, job }, query, signal })
        return [name, items.length === 0 ? before : [...before, ...items]]
      })
      return new Map(await Promise.all(all))
    },
  })
}

function curveOf(name: string, points: readonly Point[]): Curve {
  return {
    name,
    points: points.flatMap(({ step, value }) => (typeof value === 'number' ? [{ step, value }] : [])),
  }
}

function Texts({ name, points }: { name: string; points: readonly Point[] }) {
  const texts = points.filter(({ value }) => typeof value === 'string')
  if (texts.length === 0) return null
  return (
    <section>
      <h2>{name.replaceAll('_', ' ')}</h2>
      {texts.toReversed().map(({ step, value }) => (
        <figure key={step}>
          <figcaption>step {step}</figcaption>
          <pre>{value}</pre>
        </figure>
      ))}
    </section>
  )
}
