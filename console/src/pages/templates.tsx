import { Link } from '@tanstack/react-router'
import { deleteTemplate, listTemplates } from '../../../src/api/control/job-templates.ts'
import { Confirm } from '../parts/confirm.tsx'
import { useMay } from '../parts/may.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'

const templatesShown = 200

/** Job files that the project keeps under a name. */
export function Templates() {
  const project = useProject()
  const mayRun = useMay('job:create')
  const mayDelete = useMay('job:delete')
  const query = { limit: templatesShown }
  const { data, error } = useAnswer(listTemplates, { params: { project }, query }, { every: seldom })
  const remove = useDeed(
    (template: string) => service.call(deleteTemplate, { params: { project, template } }),
    ['job-templates.'],
  )
  return (
    <>
      <div className="heading">
        <h1>Templates</h1>
        <span className="space" />
        {mayRun && (
          <Link className="button main" to="/projects/$project/new-job" params={{ project }}>
            New job
          </Link>
        )}
      </div>
      <Problem error={error ?? remove.error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty={
          <>
            No templates yet. A new job's file can be kept as one, and <code>ropeway template save</code>{' '}
            keeps a folder with it.
          </>
        }
        columns={{
          Template: ({ name }) => name,
          Kind: ({ file }) => ('run' in file ? 'run' : 'train'),
          'Comes with': ({ workspace }) => workspace !== null && 'a folder',
          Changed: ({ updated_at }) => <Ago at={updated_at} />,
          '': ({ name }) => (
            <span className="row">
              {mayRun && (
                <Link to="/projects/$project/new-job" params={{ project }} search={{ template: name }}>
                  Run or change
                </Link>
              )}
              {mayDelete && (
                <Confirm
                  verb="Delete"
                  title={`Delete the template ${name}?`}
                  isBusy={remove.isPending}
                  onConfirm={() => remove.mutate(name)}
                >
                  It cannot be taken back. Jobs that were made of it are not touched.
                </Confirm>
              )}
            </span>
          ),
        }}
      />
      {data?.next && (
        <p className="quiet">Only {templatesShown} are shown; ropeway template list has them all.</p>
      )}
    </>
  )
}
