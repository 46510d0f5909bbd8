import { Link } from '@tanstack/react-router'
import {
  deleteCheckpoint,
  linkCheckpoint,
  listCheckpoints,
  restoreCheckpoint,
} from '../../../src/api/control/models.ts'
import { Confirm } from '../parts/confirm.tsx'
import { LinkForm } from '../parts/link-form.tsx'
import { May, useMay } from '../parts/may.tsx'
import { Problem } from '../parts/problem.tsx'
import { RetentionRules } from '../parts/retention.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'
import { bytesText } from '../text.ts'

const checkpointsShown = 200

/** Files of models: of jobs, uploaded or linked, and which of them stay. */
export function Checkpoints() {
  const project = useProject()
  return (
    <>
      <h1>Checkpoints</h1>
      <May permission="checkpoint:create" what="link, delete and restore checkpoints">
        <details>
          <summary>Link a bucket or a folder: nothing is copied</summary>
          <LinkForm
            project={project}
            what="checkpoint"
            changes="checkpoints."
            link={(name, link) => service.call(linkCheckpoint, { params: { project }, body: { name, link } })}
            onDone={() => undefined}
          />
        </details>
      </May>
      <CheckpointTable project={project} />
      <Deleted project={project} />
      <h2>Which of those of jobs stay</h2>
      <RetentionRules project={project} />
    </>
  )
}

function CheckpointTable({ project }: { project: string }) {
  const mayDelete = useMay('checkpoint:delete')
  const query = { limit: checkpointsShown }
  const { data, error } = useAnswer(listCheckpoints, { params: { project }, query }, { every: seldom })
  const remove = useDeed(
    (checkpoint: string) => service.call(deleteCheckpoint, { params: { project, checkpoint } }),
    ['checkpoints.'],
  )
  return (
    <>
      <Problem error={error ?? remove.error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="No checkpoints yet. Jobs make them while they train; ropeway checkpoint upload brings others."
        columns={{
          Checkpoint: ({ name }) => name,
          From: ({ job, source }) =>
            job !== null ? (
              <Link to="/projects/$project/jobs/$job" params={{ project, job: job.id }}>
                {job.name}
              </Link>
            ) : source.kind === 'link' ? (
              <code>{source.link.url}</code>
            ) : (
              source.kind
            ),
          Format: ({ format }) => format,
          Size: ({ bytes }) => bytesText(bytes),
          Made: ({ created_at }) => <Ago at={created_at} />,
          '': ({ id, name }) => (
            <span className="row">
              <Link to="/projects/$project/deployments" params={{ project }} search={{ model: id }}>
                Deploy
              </Link>
              <Link to="/projects/$project/models" params={{ project }} search={{ checkpoint: id }}>
                Promote
              </Link>
              {mayDelete && (
                <Confirm
                  verb="Delete"
                  title={`Delete the checkpoint ${name}?`}
                  isBusy={remove.isPending}
                  onConfirm={() => remove.mutate(id)}
                >
                  For 24 hours it can be restored here.
                </Confirm>
              )}
            </span>
          ),
        }}
      />
      {data?.next && (
        <p className="quiet">
          Only the newest {checkpointsShown} are shown; ropeway checkpoint list has them all.
        </p>
      )}
    </>
  )
}

/** What was deleted, by people or by a rule, and can still be brought back. */
function Deleted({ project }: { project: string }) {
  const mayRestore = useMay('checkpoint:delete')
  const query = { limit: checkpointsShown, deleted: 'true' } as const
  const { data, error } = useAnswer(listCheckpoints, { params: { project }, query }, { every: seldom })
  const restore = useDeed(
    (checkpoint: string) => service.call(restoreCheckpoint, { params: { project, checkpoint } }),
    ['checkpoints.'],
  )
  if (data?.items.length === 0) return null
  return (
    <>
      <h2>Deleted, and there for a day</h2>
      <Problem error={error ?? restore.error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty=""
        columns={{
          Checkpoint: ({ name }) => name,
          Deleted: ({ deleted_at: at }) => at !== null && <Ago at={at} />,
          '': ({ id }) =>
            mayRestore && (
              <button type="button" disabled={restore.isPending} onClick={() => restore.mutate(id)}>
                Restore
              </button>
            ),
        }}
      />
    </>
  )
}
