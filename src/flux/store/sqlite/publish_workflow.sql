-- Make a workflow known, as the worker that came last has it.
INSERT INTO workflows (name, version, location, description, input_schema, output_schema, labels)
VALUES (:name, :version, :location, :description, :input_schema, :output_schema, :labels)
ON CONFLICT (name) DO UPDATE SET
    version = excluded.version,
    location = excluded.location,
    description = excluded.description,
    input_schema = excluded.input_schema,
    output_schema = excluded.output_schema,
    labels = excluded.labels;
