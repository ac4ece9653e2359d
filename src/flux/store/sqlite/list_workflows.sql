-- List the workflows that were ever published.
SELECT name, version, location, description, input_schema, output_schema FROM workflows ORDER BY name;
