import { previewDataset } from '../../../src/api/control/datasets.ts'
import { Refused } from '../../../src/api/control/problem.ts'
import { useAnswer } from '../service.ts'
import { Problem } from './problem.tsx'

const recordsShown = 5

/** The first records of a file, field by field. */
export function Preview({ project, dataset, path }: { project: string; dataset: string; path: string }) {
  const query = { path, limit: recordsShown }
  const { data, error } = useAnswer(previewDataset, { params: { project, dataset }, query })
  return (
    <section>
      <h2>The beginning of {path}</h2>
      {error instanceof Refused ? <p className="quiet">{error.message}</p> : <Problem error={error} />}
      {data?.records.map(({ line, value }) => (
        <RecordView key={line} line={line} value={value} />
      ))}
      {data?.problem && <p className="quiet">{data.problem}</p>}
    </section>
  )
}

function RecordView({ line, value }: { line: number; value: unknown }) {
  const fields: [string, unknown][] =
    typeof value === 'object' && value !== null ? Object.entries(value) : [['', value]]
  return (
    <dl className="record" aria-label={`Record at line ${line}`}>
      {fields.map(([name, field]) => (
        <div key={name}>
          <dt>{name || line}</dt>
          <dd>{typeof field === 'string' ? field : JSON.stringify(field, null, 1)}</dd>
        </div>
      ))}
    </dl>
  )
}
