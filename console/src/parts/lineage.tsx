import { Link } from '@tanstack/react-router'
import type { z } from 'zod'
import type { lineageAnswer } from '../../../src/api/control/models.ts'

type Edge = z.output<typeof lineageAnswer>['edges'][number]
type Node = Edge['from']

/** From what comes first to what comes last: the prefix of an id, and what stands over its column. */
const kinds = {
  version: 'Data',
  job: 'Job',
  checkpoint: 'Checkpoint',
  release: 'Model',
  dep: 'Deployment',
} as const

interface LineageProps {
  readonly project: string
  readonly edges: readonly Edge[]
  /** The id of what is looked at. */
  readonly here: string
}

/** What was made of what, in columns from data to deployments. */
export function Lineage({ project, edges, here }: LineageProps) {
  if (edges.length === 0) return <p className="empty">Nothing is known about it.</p>
  const nodes = new Map(edges.flatMap(({ from, to }) => [from, to]).map((node) => [node.id, node]))
  const columns = Object.entries(kinds).map(([kind, title]) => ({
    title,
    nodes: [...nodes.values()].filter(({ id }) => id.startsWith(`${kind}_`)),
  }))
  return (
    <ol className="lineage">
      {columns
        .filter(({ nodes }) => nodes.length > 0)
        .map(({ title, nodes }) => (
          <li key={title}>
            <h3>{title}</h3>
            <ul>
              {nodes.map((node) => (
                <li key={node.id} className={node.id === here ? 'here' : ''}>
                  <NodeLink project={project} node={node} edges={edges} />
                </li>
              ))}
            </ul>
          </li>
        ))}
    </ol>
  )
}

function NodeLink({ project, node, edges }: { project: string; node: Node; edges: readonly Edge[] }) {
  const name = node.label.replace(/^\w+ /, '')
  const [bare = name, version] = name.split('@')
  const [kind] = node.id.split('_')
  if (kind === 'version')
    return (
      <Link
        to="/projects/$project/data/$dataset"
        params={{ project, dataset: bare }}
        search={{ version: Number(version) }}
      >
        {name}
      </Link>
    )
  if (kind === 'release')
    return (
      <Link to="/projects/$project/models/$model" params={{ project, model: bare }}>
        {name}
      </Link>
    )
  if (kind === 'dep')
    return (
      <Link to="/projects/$project/deployments/$deployment" params={{ project, deployment: name }}>
        {name}
      </Link>
    )
  // A checkpoint is shown by the job that made it.
  const job = kind === 'job' ? node : edges.find(({ from, to }) => to.id === node.id && isJob(from))?.from
  if (job === undefined) return name
  return (
    <Link
      to="/projects/$project/jobs/$job"
      params={{ project, job: job.id }}
      {...(kind === 'checkpoint' && { search: { tab: 'checkpoints' } })}
    >
      {name}
    </Link>
  )
}

const isJob = ({ id }: Node) => id.startsWith('job_')
